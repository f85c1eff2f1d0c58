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
        examples=[
            ("fluxbee node hold WF.test", "until Ctrl-C"),
            ("fluxbee node hold WF.test --seconds 30", "for half a minute"),
        ],
    )
    verb.add_argument("name", metavar="NAME", help="L2 name, such as WF.test")
    verb.add_argument("--seconds", metavar="S", type=float, default=0.0, help="how long; 0 is for ever")
    verb.add_argument("--node-version", metavar="V", default="1.0", help="version that it tells the router")
    add_root_argument(verb)


def _hold(args: argparse.Namespace) -> int:
    return _run(hive_paths(args), args.name, args.node_version, args.seconds)


def hold_main() -> int:
    """``inventory_hold_diag``: as ``node hold``, from INVENTORY_HOLD_NODE_NAME, …_NODE_VERSION, …_SECS."""
    from appliance.sdk.managed import NODE_NAME_ENV

    from .output import print_failure

    given = os.environ.get
    try:
        name = given("INVENTORY_HOLD_NODE_NAME") or given(NODE_NAME_ENV) or DEFAULT_NAME
        seconds = _number(given("INVENTORY_HOLD_SECS") or "0")
        version = given("INVENTORY_HOLD_NODE_VERSION") or "1.0"
        return _run(hive_paths(argparse.Namespace(root=None)), name, version, seconds)
    except Exception as error:  # noqa: BLE001 - the edge of a program: told, and the exit code says which
        return print_failure(error)


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
