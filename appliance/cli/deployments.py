"""``fluxbee deployments|drift|update``: which software is where, and bringing it there."""

from __future__ import annotations

import argparse
import sys
import time

from appliance.wire.errors import Busy, NotFound

from .frame import Verbs, add_verb
from .operate import Operator, add_operator_arguments, show, spinning, when
from .output import ExitCode, clean, paint, print_table

__all__ = ["add_parser"]

POLL_S = 0.5
UPDATE_TIMEOUT_S = 65.0
HINT_TIMEOUT_S = 50.0
"""The API allows 60 s and 45 s (``spec/admin-api.md §B.6``)."""
_CATEGORIES = ["runtime", "core", "vendor"]


def add_parser(verbs: Verbs) -> None:
    """Add the three verbs."""
    deployments = add_verb(
        verbs,
        "deployments",
        _deployments,
        summary="show what software was brought where",
        examples=[
            ("fluxbee deployments --limit 10", "the latest"),
            ("fluxbee deployments --hive edge-07", "of one hive"),
        ],
    )
    drift = add_verb(
        verbs,
        "drift",
        _drift,
        summary="show hives whose software is not what it should be",
        examples=[
            ("fluxbee drift", "all of them"),
            ("fluxbee drift --severity error --json", "for programs"),
        ],
    )
    drift.add_argument("--severity", metavar="WORD", help="only this severity")
    drift.add_argument("--kind", metavar="WORD", help="only this kind")
    for verb in (deployments, drift):
        verb.add_argument("--category", choices=_CATEGORIES, help="only this kind of software")
        verb.add_argument("--limit", metavar="N", type=int, help="at most so many (default 50)")
        add_operator_arguments(verb)
    update = add_verb(
        verbs,
        "update",
        _update,
        summary="bring a hive to the software that is published",
        details=(
            "What is published is what the hive of --from says (default: the one that answers). Ends with 7\n"
            "when the hive has not everything yet; --wait goes on until it has."
        ),
        examples=[
            ("fluxbee update edge-07 --wait", "all packages, and wait"),
            ("fluxbee update edge-07 --runtime ai.echo", "look at this one only"),
        ],
    )
    update.add_argument(
        "target", metavar="HIVE", nargs="?", help="which hive (default: the one that answers)"
    )
    update.add_argument("--category", choices=_CATEGORIES, default="runtime", help="kind (default runtime)")
    update.add_argument("--runtime", metavar="RUNTIME", help="only this package")
    update.add_argument("--version", metavar="V", dest="runtime_version", help="only this version of it")
    update.add_argument("--from", metavar="HIVE", dest="source", help="hive whose software counts")
    update.add_argument("--wait", action="store_true", help="until the hive has everything")
    update.add_argument(
        "--timeout", metavar="S", type=float, default=120.0, help="longest wait (default 120)"
    )
    add_operator_arguments(update, hive=False)


def _history_path(args: argparse.Namespace, operator: Operator, word: str) -> str:
    return operator.hive_path(word) if args.hive else f"/{word}"


def _deployments(args: argparse.Namespace) -> int:
    operator = Operator(args)
    query = {"category": args.category, "limit": args.limit}

    def people(payload: dict[str, object]) -> None:
        rows = []
        for one in _objects(payload.get("entries")):
            targets = one.get("target_hives")
            hives = ", ".join(map(str, targets)) if isinstance(targets, list) else ""
            rows.append(
                (
                    when(one.get("started_at")),
                    one.get("category"),
                    one.get("result"),
                    hives,
                    one.get("trigger"),
                )
            )
        print_table(("when", "category", "result", "hives", "why"), rows)

    show(args, operator.get(_history_path(args, operator, "deployments"), query), people)
    return ExitCode.OK


def _drift(args: argparse.Namespace) -> int:
    operator = Operator(args)
    query = {"category": args.category, "limit": args.limit, "severity": args.severity, "kind": args.kind}

    def people(payload: dict[str, object]) -> None:
        rows = [
            (
                when(one.get("detected_at")),
                one.get("hive_id"),
                one.get("severity"),
                one.get("category"),
                one.get("message"),
            )
            for one in _objects(payload.get("entries"))
        ]
        print_table(("when", "hive", "severity", "category", "what"), rows)

    show(args, operator.get(_history_path(args, operator, "drift-alerts"), query), people)
    return ExitCode.OK


# --- update ----------------------------------------------------------------------------------------------


def _update(args: argparse.Namespace) -> int:
    from .api import quoted

    args.hive = args.target
    operator = Operator(args)
    body = _wanted(args, operator)
    path = f"/hives/{quoted(operator.hive)}"
    deadline = time.monotonic() + args.timeout
    with spinning(f"{operator.hive} {args.category}") as turn:
        if args.category == "runtime":
            operator.ask("POST", f"{path}/sync-hint", _HINT, timeout_s=HINT_TIMEOUT_S)
        while True:
            answer = operator.ask("POST", f"{path}/update", body, timeout_s=UPDATE_TIMEOUT_S)
            if answer.status != "sync_pending" or not args.wait:
                break
            if time.monotonic() >= deadline:
                raise Busy(
                    f"{operator.hive} has not everything after {args.timeout:g} s",
                    code="SYNC_PENDING",
                    remedy="`fluxbee drift` shows what is missing.",
                )
            turn("not everything is there yet")
            time.sleep(POLL_S)
    show(args, answer, _print_update)
    return ExitCode.BUSY if answer.status == "sync_pending" else ExitCode.OK


_HINT = {"channel": "dist", "folder_id": "fluxbee-dist", "wait_for_idle": True, "timeout_ms": 30000}


def _wanted(args: argparse.Namespace, operator: Operator) -> dict[str, object]:
    """What the hive shall have: version and hash of the manifest of the hive whose software counts."""
    from .api import quoted

    source = args.source or str(operator.get("/hive/status").fields().get("hive_id"))
    hive = operator.get(f"/hives/{quoted(source)}/versions").fields().get("hive")
    key = {"runtime": "runtimes"}.get(args.category, args.category)
    part = hive.get(key) if isinstance(hive, dict) else None
    manifest_hash = part.get("manifest_hash") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not manifest_hash:
        raise NotFound(
            f"{source} has no {args.category} software to bring", remedy="Publish something first."
        )
    body: dict[str, object] = {
        "category": args.category,
        "manifest_version": part.get("manifest_version") or 0,
        "manifest_hash": manifest_hash,
    }
    if args.runtime:
        body["runtime"] = args.runtime
    if args.runtime_version:
        body["runtime_version"] = args.runtime_version
    return body


def _print_update(payload: dict[str, object]) -> None:
    name = paint(clean(payload.get("hive")), "bold", sys.stdout)
    state = (
        "has everything" if payload.get("status") == "ok" else clean(payload.get("status")).replace("_", " ")
    )
    sys.stdout.write(f"{name} {state} ({clean(payload.get('category'))})\n")
    rows = [
        (word, ", ".join(map(str, items)))
        for word in ("updated", "restarted", "errors")
        if isinstance(items := payload.get(word), list) and items
    ]
    health = payload.get("targeted_runtime_health")
    if isinstance(health, dict) and isinstance(health.get("errors"), list) and health["errors"]:
        rows.append(("not ready", ", ".join(map(str, health["errors"]))))
    for word, text in rows:
        sys.stdout.write(f"  {word}: {clean(text)}\n")


def _objects(value: object) -> list[dict[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
