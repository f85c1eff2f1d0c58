"""``fluxbee send``: one message to a node, and what came back."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from .frame import Verbs, add_json_argument, add_verb
from .output import ExitCode, clean, paint, print_json
from .places import add_root_argument, hive_paths, operator, visitor

if TYPE_CHECKING:
    from appliance.sdk import Node
    from appliance.wire.envelope import Message

__all__ = ["add_parser"]


def add_parser(verbs: Verbs) -> None:
    """Add ``send``."""
    parser = add_verb(
        verbs,
        "send",
        _send,
        summary="send a message and print the reply and how long it took",
        details=(
            "DST is a full L2 name (AI.echo@hive), a uuid, base@* for any hive, `broadcast`, or `policy`\n"
            "to let policy decide. TEXT goes as a text/v1 payload."
        ),
        examples=[
            ('fluxbee send AI.echo@motherbee "hola"', "print the reply and its latency"),
            ("fluxbee send AI.echo@motherbee hola --trace", "also say which way it went, and the envelopes"),
            ("fluxbee send AI.x@motherbee --payload '{\"a\": 1}' --no-wait", "any JSON, fire and forget"),
        ],
    )
    parser.add_argument("dst", metavar="DST", help="whom")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what to say")
    parser.add_argument("--payload", metavar="JSON", help="payload instead of TEXT")
    parser.add_argument("--thread", metavar="ID", help="thread_id of the conversation")
    parser.add_argument("--as", metavar="NAME", dest="name", help="name to send as (default IO.cli.<random>)")
    parser.add_argument("--timeout", metavar="S", type=float, default=5.0, help="seconds to wait (default 5)")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for a reply")
    parser.add_argument("--trace", action="store_true", help="show the route and the envelopes")
    add_json_argument(parser)
    add_root_argument(parser)


def _payload(args: argparse.Namespace) -> object:
    from appliance.sdk.replies import text_payload
    from appliance.wire.errors import Invalid

    if (args.text is None) == (args.payload is None):
        raise Invalid("give either TEXT or --payload", field="TEXT")
    if args.payload is None:
        return text_payload(args.text)
    try:
        return json.loads(args.payload)
    except ValueError as error:
        raise Invalid(f"--payload is not JSON: {error}", field="--payload") from error


def _send(args: argparse.Namespace) -> int:
    import trio

    payload = _payload(args)
    return trio.run(_exchange, args, payload)


async def _exchange(args: argparse.Namespace, payload: object) -> int:
    from appliance.wire.envelope import Meta, build_message
    from appliance.wire.ids import new_uuid
    from appliance.wire.verbs import BROADCAST, USER

    paths = hive_paths(args)
    dst = None if args.dst == "policy" else args.dst
    async with visitor(paths, args.name or f"IO.cli.{new_uuid()[:8]}") as node:
        message = build_message(
            src=node.uuid, dst=dst, payload=payload, meta=Meta(type=USER, thread_id=args.thread)
        )
        if args.trace and not args.json:
            await _show_route(args, node, message)
        if args.no_wait or dst == BROADCAST:
            await node.send(message)
            if args.json:
                print_json({"sent": True, "trace_id": message.routing.trace_id})
            return ExitCode.OK
        started = time.perf_counter()
        answer = await node.request(message, timeout_s=args.timeout)
        latency_ms = (time.perf_counter() - started) * 1000
        await _show_answer(args, node, answer, latency_ms)
    return ExitCode.OK


async def _show_answer(args: argparse.Namespace, node: Node, answer: Message, latency_ms: float) -> None:
    if args.json:
        from appliance.wire.envelope import encode_message

        print_json({"latency_ms": round(latency_ms, 3), "message": json.loads(encode_message(answer))})
        return
    text = await _text_of(node, answer)
    sys.stdout.write(f"{clean(text)}\n")
    sys.stdout.flush()
    origin = answer.source_l2_name or answer.routing.src
    sys.stderr.write(paint(f"from {clean(origin)} in {latency_ms:.2f} ms\n", "dim", sys.stderr))
    if args.trace:
        _show_envelope("received", answer)


async def _text_of(node: Node, answer: Message) -> str:
    from appliance.wire.errors import Invalid

    try:
        return await node.read_text(answer)
    except Invalid:
        return bytes(answer.payload).decode()


async def _show_route(args: argparse.Namespace, node: Node, message: Message) -> None:
    from appliance.wire.envelope import system_message
    from appliance.wire.errors import FluxbeeError
    from appliance.wire.verbs import ROUTER_EXPLAIN

    told = "policy decides" if message.routing.dst is None else ""
    if message.routing.dst not in (None, "broadcast"):
        try:
            async with operator(hive_paths(args)) as asker:
                question = system_message(
                    src=asker.uuid,
                    dst=asker.router_name,
                    verb=ROUTER_EXPLAIN,
                    payload={"src": node.uuid, "dst": message.routing.dst},
                )
                answer = (await asker.request(question, timeout_s=args.timeout)).json()
            fields = answer if isinstance(answer, dict) else {}
            told = str(fields.get("why") or fields.get("message") or answer)
            if fields.get("hop"):
                told = f"{fields['hop']}: {told}"
        except FluxbeeError as error:
            told = f"the router does not say ({error.message})"
    sys.stderr.write(f"{paint('route', 'bold', sys.stderr)}     {clean(told)}\n")
    _show_envelope("sent", message)


def _show_envelope(label: str, message: Message) -> None:
    from appliance.wire.envelope import encode_message

    text = encode_message(message).decode()
    sys.stderr.write(f"{paint(f'{label:<9}', 'bold', sys.stderr)} {clean(text)}\n")
