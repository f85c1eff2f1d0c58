"""``fluxbee hive``: the hives that belong together, and the one that answers."""

from __future__ import annotations

import argparse
import sys

from .frame import Verbs, add_verb, add_verb_group
from .operate import Operator, add_operator_arguments, show, when
from .output import ExitCode, clean, paint, print_fields, print_table

__all__ = ["add_parser"]

ADD_TIMEOUT_S = 185.0
"""The API allows 180 s (``spec/admin-api.md §B.2``)."""


def add_parser(verbs: Verbs) -> None:
    """Add ``hive``."""
    group = add_verb_group(
        verbs,
        "hive",
        summary="show, add or remove hives",
        examples=[("fluxbee hive list", "which hives there are")],
    )
    status = add_verb(
        group,
        "status",
        _status,
        summary="show the hive that answers: uptime, nodes by kind",
        examples=[
            ("fluxbee hive status", "this box"),
            ("fluxbee hive status --base http://10.0.0.2:8080", "another"),
        ],
    )
    add_operator_arguments(status, hive=False)
    listing = add_verb(
        group, "list", _list, summary="show all hives", examples=[("fluxbee hive list", "with how they do")]
    )
    add_operator_arguments(listing, hive=False)
    add = add_verb(
        group,
        "add",
        _add,
        summary="register a hive with its motherbee",
        examples=[("fluxbee hive add edge-07 10.20.0.7", "may take some minutes")],
    )
    add.add_argument("hive_id", metavar="HIVE", help="its id")
    add.add_argument("address", metavar="ADDRESS", help="IP address or host name")
    add.add_argument("--harden-ssh", action="store_true", help="close its SSH for passwords")
    add.add_argument("--restrict-ssh", action="store_true", help="allow SSH from the motherbee only")
    add.add_argument("--require-dist-sync", action="store_true", help="fail unless it gets the packages")
    add_operator_arguments(add, hive=False)
    remove = add_verb(
        group,
        "rm",
        _remove,
        summary="take a hive out of the group",
        examples=[("fluxbee hive rm edge-07", "also when it is not reachable any more")],
    )
    remove.add_argument("hive_id", metavar="HIVE", help="its id")
    add_operator_arguments(remove, hive=False)


def _status(args: argparse.Namespace) -> int:
    operator = Operator(args)
    answer = operator.get("/hive/status")

    def people(payload: dict[str, object]) -> None:
        summary = operator.get("/inventory/summary").fields()
        kinds = summary.get("nodes_by_type")
        counts = [f"{count} {kind}" for kind, count in kinds.items()] if isinstance(kinds, dict) else []
        sys.stdout.write(f"{paint(clean(payload.get('hive_id')), 'bold', sys.stdout)}\n")
        print_fields(
            [
                ("address", operator.api.base),
                ("up", _duration(payload.get("uptime_ms"))),
                ("pid", payload.get("pid")),
                ("hives", f"{summary.get('hives_alive')} of {summary.get('total_hives')} alive"),
                ("nodes", ", ".join(counts)),
            ]
        )

    show(args, answer, people)
    return ExitCode.OK


def _duration(ms: object) -> str:
    if not isinstance(ms, int | float):
        return ""
    minutes, seconds = divmod(int(ms) // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:2]) or "0 s"


def _list(args: argparse.Namespace) -> int:
    operator = Operator(args)

    def people(payload: dict[str, object]) -> None:
        hives = payload.get("hives")
        rows = [
            (
                one.get("hive_id"),
                one.get("status"),
                one.get("role"),
                one.get("address"),
                when(one.get("created_at")),
            )
            for one in (hives if isinstance(hives, list) else ())
            if isinstance(one, dict)
        ]
        print_table(("hive", "status", "role", "address", "since"), rows)

    show(args, operator.get("/hives"), people)
    return ExitCode.OK


def _add(args: argparse.Namespace) -> int:
    operator = Operator(args)
    body: dict[str, object] = {"hive_id": args.hive_id, "address": args.address}
    for option in ("harden_ssh", "restrict_ssh", "require_dist_sync"):
        if getattr(args, option):
            body[option] = True
    answer = operator.ask("POST", "/hives", body, timeout_s=ADD_TIMEOUT_S)

    def people(payload: dict[str, object]) -> None:
        sys.stdout.write(f"{paint(clean(payload.get('hive_id')), 'bold', sys.stdout)} is added\n")
        flags = ("wan_connected", "orchestrator_connected", "dist_sync_ready")
        print_fields([(flag.replace("_", " "), payload.get(flag)) for flag in flags])

    show(args, answer, people)
    return ExitCode.OK


def _remove(args: argparse.Namespace) -> int:
    from .api import quoted

    operator = Operator(args)
    answer = operator.ask("DELETE", f"/hives/{quoted(args.hive_id)}")

    def people(payload: dict[str, object]) -> None:
        name = paint(clean(payload.get("hive_id")), "bold", sys.stdout)
        sys.stdout.write(f"{name} is removed; its side: {clean(payload.get('remote_cleanup'))}\n")

    show(args, answer, people)
    return ExitCode.OK
