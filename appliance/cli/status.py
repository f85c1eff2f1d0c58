"""``fluxbee status``: is the hive up, who is connected, what was dropped."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .frame import Verbs, add_json_argument, add_verb
from .output import ExitCode, paint, print_fields, print_json, print_table
from .places import add_root_argument, hive_paths, operator

__all__ = ["add_parser"]

_QUIET = ("closed.",)
"""Counters that are no trouble: how connections ended."""


def add_parser(verbs: Verbs) -> None:
    """Add ``status``."""
    parser = add_verb(
        verbs,
        "status",
        _status,
        summary="show the hive, its planes, its nodes and what was dropped",
        details="Ends with code 4 when no hive runs, and with 1 when one runs but is not well.",
        examples=[
            ("fluxbee status", "for people"),
            ("fluxbee status --json", "everything, for programs"),
            ("fluxbee status --queues", "with what waits for each node"),
        ],
    )
    parser.add_argument("--queues", action="store_true", help="also show the queues")
    add_json_argument(parser)
    add_root_argument(parser)


def _status(args: argparse.Namespace) -> int:
    import trio

    return trio.run(_collect, args)


async def _collect(args: argparse.Namespace) -> int:
    from appliance.wire import verbs
    from appliance.wire.envelope import system_message
    from appliance.wire.errors import FluxbeeError, Refused

    paths = hive_paths(args)
    report: dict[str, Any] = {}
    async with operator(paths) as node:

        async def ask(verb: str, dst: str) -> dict[str, Any]:
            question = system_message(src=node.uuid, dst=dst, verb=verb, payload={})
            answer = (await node.request(question)).json()
            if not isinstance(answer, dict) or answer.get("status") == "error":
                told = answer.get("message") if isinstance(answer, dict) else answer
                raise Refused(
                    f"the router does not tell: {told}",
                    remedy="Use a privileged account, or list this name in security.admin_nodes.",
                )
            return answer

        report["router"] = await ask(verbs.ROUTER_STATUS, node.router_name)
        report["nodes"] = (await ask(verbs.ROUTER_NODES, node.router_name))["nodes"]
        report["nodes"] = [one for one in report["nodes"] if one["uuid"] != node.uuid]
        if args.queues:
            report["queues"] = (await ask(verbs.ROUTER_QUEUES, node.router_name))["queues"]
        try:
            report["health"] = await ask(verbs.HEALTH_GET, f"SY.health@{report['router']['hive']}")
        except FluxbeeError as error:
            report["health"] = {"reasons": [f"the control plane does not answer: {error.message}"]}
    report["root"] = str(paths.root) if paths.root else None
    if args.json:
        print_json(report)
    else:
        _print(report)
    return ExitCode.FAILED if report["health"].get("reasons") else ExitCode.OK


def _print(report: dict[str, Any]) -> None:
    router, health = report["router"], report["health"]
    reasons = health.get("reasons") or []
    state = paint("well", "green", sys.stdout) if not reasons else paint("not well", "red", sys.stdout)
    fields: list[tuple[str, object]] = [
        ("hive", router["hive"]),
        ("root", report["root"] or "/"),
        ("router", f"{router['router_name']} {router['router_uuid']}"),
    ]
    planes = health.get("planes") or []
    fields += [(f"plane {one['name']}", _plane(one)) for one in planes]
    sys.stdout.write(f"{state}\n")
    for reason in reasons:
        sys.stdout.write(f"  {paint(reason, 'red', sys.stdout)}\n")
    for notice in health.get("notices") or []:
        sys.stdout.write(f"  {paint(notice, 'yellow', sys.stdout)}\n")
    print_fields(fields)
    rows = [
        (one["name"], one["uuid"], one["vpn_id"], "" if one["serving"] else "standby", one["pid"])
        for one in report["nodes"]
    ]
    sys.stdout.write("\n")
    print_table(("node", "uuid", "vpn", "", "pid"), rows)
    drops = {key: n for key, n in router["counts"].items() if not key.startswith(_QUIET)}
    if drops:
        sys.stdout.write("\n")
        print_table(("refused, dropped, noted", "times"), sorted(drops.items()))
    if "queues" in report:
        sys.stdout.write("\n")
        waiting = [(q["name"], q["frames"], q["size_bytes"], q["refused"]) for q in report["queues"]]
        print_table(("queue of", "frames", "bytes", "refused"), waiting)


def _plane(plane: dict[str, Any]) -> str:
    again = f", restarted {plane['restarts']} times" if plane.get("restarts") else ""
    why = f" ({plane['why']})" if plane.get("why") else ""
    return f"{plane['state']}{why}{again}"
