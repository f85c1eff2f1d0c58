"""``fluxbee node hold``: a node that connects, answers status requests and does nothing else.

A stand-in for tests of inventories and life cycles; also callable as ``inventory_hold_diag``, with everything
in variables (``spec/admin-api.md §F.3``).
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from appliance.wire.errors import Invalid

from .frame import Verbs, add_verb
from .output import ExitCode, paint
from .places import add_root_argument, hive_paths, until_told

if TYPE_CHECKING:
    from appliance.system.paths import Paths

__all__ = ["add_hold_verb", "hold_main"]

DEFAULT_NAME = "WF.inventory.hold"


def add_hold_verb(group: Verbs) -> None:
    """Add ``hold`` to the verbs of ``node``."""
    verb = add_verb(
        group,
        "hold",
        _hold,
        summary="connect as NAME, answer status requests, do nothing else",
        details=(
            "What is not given is taken from the variables INVENTORY_HOLD_NODE_NAME,\n"
            "INVENTORY_HOLD_NODE_VERSION and INVENTORY_HOLD_SECS."
        ),
        examples=[
            ("fluxbee node hold WF.test", "until Ctrl-C"),
            ("fluxbee node hold WF.test --seconds 30", "for half a minute"),
        ],
    )
    verb.add_argument("name", metavar="NAME", nargs="?", help="L2 name, such as WF.test")
    verb.add_argument("--seconds", metavar="S", type=float, help="how long; 0 (the default) is for ever")
    verb.add_argument("--node-version", metavar="V", help="version that it tells the router (default 1.0)")
    add_root_argument(verb)


def hold_main() -> int:
    """``inventory_hold_diag``: ``node hold`` with everything in variables."""
    from . import main

    return main(["node", "hold"])


def _hold(args: argparse.Namespace) -> int:
    from appliance.sdk.managed import NODE_NAME_ENV

    given = os.environ.get
    name = args.name or given("INVENTORY_HOLD_NODE_NAME") or given(NODE_NAME_ENV) or DEFAULT_NAME
    version = args.node_version or given("INVENTORY_HOLD_NODE_VERSION") or "1.0"
    seconds = args.seconds if args.seconds is not None else _number(given("INVENTORY_HOLD_SECS") or "0")
    return _run(hive_paths(args), name, version, seconds)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Invalid(f"INVENTORY_HOLD_SECS is no number: {text}", field="INVENTORY_HOLD_SECS") from None


def _run(paths: Paths, name: str, version: str, seconds: float) -> int:
    import trio

    from appliance.wire.names import base_name, check_local_name

    check_local_name(base_name(name), "NAME")
    trio.run(until_told, partial(_serve, paths, name, version, seconds))
    return ExitCode.OK


async def _serve(paths: Paths, name: str, version: str, seconds: float) -> None:
    import trio

    from appliance.sdk import NodeConfig, UuidMode, connect

    config = NodeConfig(
        name=name,
        version=version,
        paths=paths,
        uuid_mode=UuidMode.EPHEMERAL,
        answer_status=True,
        answer_echo=True,
    )
    async with connect(config) as node:
        told = f"{paint(node.full_name, 'bold', sys.stderr)} is connected to {node.router_name}\n"
        sys.stderr.write(told)
        with trio.move_on_after(seconds or float("inf")):
            async for _ in node.receiver:
                pass  # taken, so that the router does not count this node as stalled
