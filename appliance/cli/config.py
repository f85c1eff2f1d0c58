"""``fluxbee config``: is hive.yaml right, what counts and why, and what could stand there."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .frame import (
    Verbs,
    add_config_arguments,
    add_json_argument,
    add_verb,
    add_verb_group,
    completes,
    load_configuration,
)
from .output import ExitCode, paint, print_fields, print_json, print_notice, print_table

if TYPE_CHECKING:
    from appliance.settings import Explained

__all__ = ["add_parser"]


def add_parser(verbs: Verbs) -> None:
    """Add ``config check``, ``config explain`` and ``config schema``."""
    group = add_verb_group(
        verbs,
        "config",
        summary="check and explain hive.yaml",
        examples=[
            ("fluxbee config check", "is the box's hive.yaml right?"),
            ("fluxbee config explain wan", "what counts below wan"),
        ],
    )
    check = add_verb(
        group,
        "check",
        _check,
        summary="name every mistake in hive.yaml",
        details="Leaves with 0 when the file is right and with 3 when it is not.",
        examples=[
            ("fluxbee config check", "the box's own file"),
            ("fluxbee config check --config config/worker.yaml", "another file"),
        ],
    )
    explain = add_verb(
        group,
        "explain",
        _explain,
        summary="show what counts and where it came from",
        details="Secrets are shown as <hidden>.",
        examples=[
            ("fluxbee config explain", "every key"),
            ("fluxbee config explain wan", "the keys of a section"),
            ("fluxbee config explain admin.listen", "one key with all that is known about it"),
            ("fluxbee config explain --json turns", "for programs"),
        ],
    )
    key = explain.add_argument("key", metavar="KEY", nargs="?", default="", help="a key or section")
    completes(key, "setting")
    for parser in (check, explain):
        add_config_arguments(parser)
        add_json_argument(parser)
    schema = add_verb(
        group,
        "schema",
        _schema,
        summary="print the JSON Schema of hive.yaml",
        examples=[
            ("fluxbee config schema > hive.schema.json", "for an editor"),
            ("fluxbee config schema --markdown", "the reference page"),
        ],
    )
    schema.add_argument("--markdown", action="store_true", help="print the reference page instead")


def _check(args: argparse.Namespace) -> int:
    from appliance.settings import SettingsError

    try:
        found = load_configuration(args)
    except SettingsError as refused:
        if not args.json:
            raise
        print_json({"ok": False, "problems": [_told(problem) for problem in refused.problems], "notices": []})
        return ExitCode.MISCONFIGURED
    if args.json:
        notices = [{"code": one.code, "level": one.level, **_told(one)} for one in found.notices]
        print_json({"ok": True, "file": found.file, "problems": [], "notices": notices})
        return ExitCode.OK
    for notice in found.notices:
        print_notice(str(notice))
    given = len([key for key, source in found.sources.items() if source.kind == "file"])
    where = f"{found.file}: {given} keys" if found.file else "no hive.yaml: an unclaimed worker"
    hive = found.settings.hive_id or "unclaimed"
    sys.stdout.write(f"{paint('ok', 'green', sys.stdout)}  {where}; {found.settings.role} {hive}\n")
    return ExitCode.OK


def _told(one: object) -> dict[str, object]:
    """A problem or notice for programs."""
    from appliance.settings import Notice, Problem

    assert isinstance(one, Problem | Notice)
    return {"key": one.key, "source": one.source, "message": one.message}


def _explain(args: argparse.Namespace) -> int:
    found = load_configuration(args)
    rows = found.explain(args.key)
    if not rows:
        raise _unknown(args.key)
    if args.json:
        print_json([{**_row(row), "source": str(row.source)} for row in rows])
    elif len(rows) == 1 and rows[0].key == args.key:
        _print_one(rows[0])
    else:
        from appliance.settings.reference import show

        print_table(("KEY", "VALUE", "SOURCE"), [(row.key, show(row.value), row.source) for row in rows])
    return ExitCode.OK


def _row(row: Explained) -> dict[str, object]:
    return {name: getattr(row, name) for name in row.__struct_fields__}


def _print_one(row: Explained) -> None:
    from appliance.settings.reference import show

    value = show(row.value) or (f"not set: {row.derived}" if row.derived else "not set")
    sys.stdout.write(f"{paint(row.key, 'bold', sys.stdout)}: {value}\n")
    print_fields(
        [
            ("source", row.source),
            ("default", show(row.default) or row.derived),
            ("expects", row.expects),
            ("environment", ", ".join(row.environment)),
            ("meaning", row.description),
            ("no effect", row.notice),
        ]
    )


def _unknown(key: str) -> Exception:
    from appliance.settings import Settings
    from appliance.settings.reader import nearest_key
    from appliance.wire.errors import NotFound

    return NotFound(
        f"hive.yaml has no key {key!r}",
        field="key",
        remedy=f"Did you mean `{nearest_key(key, Settings)}`? `fluxbee config explain` shows every key.",
    )


def _schema(args: argparse.Namespace) -> int:
    from appliance.settings.reference import json_schema, markdown

    sys.stdout.write(markdown() if args.markdown else json_schema())
    return ExitCode.OK
