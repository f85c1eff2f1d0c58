"""``fluxbee tap``: a live view of traffic."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from .frame import Verbs, add_json_argument, add_verb
from .output import ExitCode, clean, paint
from .places import add_root_argument, hive_paths, operator, until_told

if TYPE_CHECKING:
    from appliance.sdk import Node

__all__ = ["add_parser"]

_RENEW_S = 10.0
_SHOWN_CHARS = 160


def add_parser(verbs: Verbs) -> None:
    """Add ``tap``."""
    parser = add_verb(
        verbs,
        "tap",
        _tap,
        summary="watch messages as they are routed",
        details=(
            "Needs a privileged account, or `security.admin_nodes`. Watching costs the router time; a\n"
            "watcher that is too slow misses copies (counted), messages are not held up. Ctrl-C ends it."
        ),
        examples=[
            ("fluxbee tap", "everything"),
            ("fluxbee tap --name 'AI.*'", "from or to nodes whose full name matches"),
            ("fluxbee tap --json | jq .frame", "for programs: one JSON object per line"),
        ],
    )
    parser.add_argument("--name", metavar="PATTERN", default="*", help="sender or recipient; * is any text")
    parser.add_argument("--count", metavar="N", type=int, help="end after N messages")
    add_json_argument(parser)
    add_root_argument(parser)


def _tap(args: argparse.Namespace) -> int:
    import trio

    trio.run(until_told, partial(_watch, args))
    return ExitCode.OK


async def _watch(args: argparse.Namespace) -> None:
    import trio

    from appliance.wire.verbs import ROUTER_TAP_EVENT

    pattern = args.name if "*" in args.name or "@" in args.name else f"{args.name}@*"
    async with operator(hive_paths(args)) as node:
        await _ask_for_copies(node, pattern)
        sys.stderr.write(paint(f"watching {clean(pattern)}; Ctrl-C ends it\n", "dim", sys.stderr))
        left = args.count if args.count is not None else -1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_renew, node, pattern)
            async for message in node.receiver:
                if message.meta.msg != ROUTER_TAP_EVENT:
                    continue
                _show(args, bytes(message.payload))
                left -= 1
                if left == 0:
                    break
            nursery.cancel_scope.cancel()


async def _renew(node: Node, pattern: str) -> None:
    import trio

    while True:
        await trio.sleep(_RENEW_S)
        await _ask_for_copies(node, pattern)


async def _ask_for_copies(node: Node, pattern: str) -> None:
    from appliance.wire.envelope import system_message
    from appliance.wire.errors import Refused
    from appliance.wire.verbs import ROUTER_TAP

    await node.wait_connected(timeout_s=10.0)
    question = system_message(
        src=node.uuid, dst=node.router_name, verb=ROUTER_TAP, payload={"pattern": pattern}
    )
    answer = (await node.request(question)).json()
    if not isinstance(answer, dict) or answer.get("status") != "ok":
        told = answer.get("message") if isinstance(answer, dict) else answer
        raise Refused(
            f"the router refuses the tap: {told}",
            remedy="Use a privileged account, or list this name in security.admin_nodes.",
        )


def _show(args: argparse.Namespace, payload: bytes) -> None:
    if args.json:
        sys.stdout.write(payload.decode() + "\n")
        sys.stdout.flush()
        return
    import msgspec

    event = msgspec.json.decode(payload)
    at = time.strftime("%H:%M:%S", time.localtime(event["at_ms"] / 1000)) + f".{event['at_ms'] % 1000:03d}"
    to = event["to"] or event["dst"] or "policy"
    kind = event["type"] if not event["msg"] else f"{event['type']}/{event['msg']}"
    good = event["outcome"] in ("delivered", "broadcast", "flooded", "forwarded")
    outcome = "" if good else paint(f" {event['outcome']}", "red", sys.stdout)
    body = event["frame"]["payload"] if event.get("frame") else ""
    text = msgspec.json.encode(body).decode()[:_SHOWN_CHARS] if body != "" else f"{event['size_bytes']} bytes"
    sys.stdout.write(
        f"{paint(at, 'dim', sys.stdout)} {clean(event['from'])} → {paint(clean(to), 'bold', sys.stdout)}"
        f" {clean(kind)}{outcome} {clean(text)}\n"
    )
    sys.stdout.flush()
