"""``fluxbee runtime``: which packages a hive has, and whether they can run."""

from __future__ import annotations

import argparse
import sys

from .frame import Verbs, add_verb, add_verb_group
from .operate import Operator, add_operator_arguments, show
from .output import ExitCode, clean, paint, print_fields, print_table

__all__ = ["add_parser"]


def add_parser(verbs: Verbs) -> None:
    """Add ``runtime``."""
    group = add_verb_group(
        verbs,
        "runtime",
        summary="show or remove published packages",
        examples=[("fluxbee runtime list", "what can be spawned")],
    )
    listing = add_verb(
        group,
        "list",
        _list,
        summary="show the packages of a hive",
        examples=[("fluxbee runtime list", "with their current versions")],
    )
    add_operator_arguments(listing)
    one = add_verb(
        group,
        "show",
        _show,
        summary="show one package: its versions, what runs it, what is missing",
        examples=[("fluxbee runtime show ai.echo", "all its versions")],
    )
    one.add_argument("runtime", metavar="RUNTIME", help="such as ai.echo")
    add_operator_arguments(one)
    remove = add_verb(
        group,
        "rm",
        _remove,
        summary="remove one version of a package",
        details="Not the current one, not one that runs, not one that others are based on.",
        examples=[("fluxbee runtime rm ai.echo 0.9.0", "free its space")],
    )
    remove.add_argument("runtime", metavar="RUNTIME", help="such as ai.echo")
    remove.add_argument("version", metavar="VERSION", help="such as 0.9.0")
    add_operator_arguments(remove)


def _list(args: argparse.Namespace) -> int:
    operator = Operator(args)
    show(args, operator.get(operator.hive_path("runtimes")), _print_list)
    return ExitCode.OK


def _print_list(payload: dict[str, object]) -> None:
    rows = []
    for one in _objects(payload.get("runtimes")):
        current = str(one.get("current") or "")
        versions = [str(version) for version in _values(one.get("available"))]
        others = ", ".join(version for version in versions if version != current)
        readiness = one.get("readiness")
        ready = readiness.get(current) if isinstance(readiness, dict) else None
        rows.append(
            (one.get("runtime"), current, _ready(ready), one.get("type"), one.get("runtime_base"), others)
        )
    print_table(("runtime", "current", "ready", "type", "based on", "other versions"), rows)


def _ready(readiness: object) -> str:
    """Whether a version can run, or the first thing that is missing."""
    if not isinstance(readiness, dict):
        return ""
    missing = [
        text
        for key, text in (
            ("runtime_present", "not on this hive"),
            ("base_runtime_ready", "base missing"),
            ("start_sh_executable", "start.sh missing"),
        )
        if not readiness.get(key)
    ]
    return missing[0] if missing else "yes"


def _show(args: argparse.Namespace) -> int:
    operator = Operator(args)
    show(args, operator.get(operator.hive_path("runtimes", args.runtime)), _print_one)
    return ExitCode.OK


def _print_one(payload: dict[str, object]) -> None:
    one = _object(payload.get("runtime"))
    sys.stdout.write(f"{paint(clean(one.get('runtime')), 'bold', sys.stdout)}\n")
    print_fields([(key.replace("_", " "), one.get(key)) for key in ("type", "runtime_base", "current")])
    readiness = _object(one.get("readiness"))
    places = _object(_object(payload.get("materialization")).get("versions"))
    rows = [
        (
            version,
            _ready(readiness.get(str(version))),
            _object(places.get(str(version))).get("blocking_reason"),
            _object(places.get(str(version))).get("package_dir"),
        )
        for version in _values(one.get("available"))
    ]
    sys.stdout.write("\n")
    print_table(("version", "ready", "blocked by", "place"), rows)
    users = _objects(
        _object(payload.get("usage_global_visible") or payload.get("usage")).get("running_nodes")
    )
    if users:
        sys.stdout.write("\n")
        print_table(
            ("run by", "version"), [(user.get("node_name"), user.get("runtime_version")) for user in users]
        )


def _remove(args: argparse.Namespace) -> int:
    operator = Operator(args)
    answer = operator.ask("DELETE", operator.hive_path("runtimes", args.runtime, "versions", args.version))

    def people(payload: dict[str, object]) -> None:
        sys.stdout.write(
            f"{clean(payload.get('runtime'))} {clean(payload.get('removed_version'))} is removed\n"
        )

    show(args, answer, people)
    return ExitCode.OK


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _values(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _objects(value: object) -> list[dict[str, object]]:
    return [one for one in _values(value) if isinstance(one, dict)]
