"""``fluxbee admin-command``: one admin action through the router instead of HTTP.

What operators' scripts call as ``admin_internal_command_diag``: everything in variables, pretty JSON on
stdout, exit code 1 when nobody answered or the status is not the expected one (``spec/admin-api.md §F.3``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from appliance.wire.errors import FluxbeeError, Invalid

from .frame import Verbs, add_verb
from .output import ExitCode, print_failure, print_json
from .places import add_root_argument, hive_paths, operator, visitor

if TYPE_CHECKING:
    from appliance.sdk import AdminResult
    from appliance.wire.envelope import Json

__all__ = ["add_parser", "diagnostics_main"]

DEFAULT_ACTION = "inventory"
DEFAULT_TARGET = "SY.admin@motherbee"
DEFAULT_TIMEOUT_S = 15.0
_HELD = ("ADMIN_ACTION", "ADMIN_TARGET", "ADMIN_TIMEOUT_SECS", "ADMIN_PAYLOAD_TARGET", "ADMIN_PARAMS_JSON")


def add_parser(verbs: Verbs) -> None:
    """Add ``admin-command``."""
    verb = add_verb(
        verbs,
        "admin-command",
        _command,
        summary="give one admin action through the router, as scripts do",
        details=(
            "Options win over the variables ADMIN_ACTION, ADMIN_TARGET, ADMIN_TIMEOUT_SECS,\n"
            "ADMIN_PAYLOAD_TARGET, ADMIN_PARAMS_JSON, ADMIN_REQUEST_ID, ADMIN_NODE_NAME,\n"
            "ADMIN_EXPECT_STATUS. Prints JSON; ends with 1 when nobody answers or the status is another."
        ),
        examples=[
            ("fluxbee admin-command inventory", "who is there"),
            ("fluxbee admin-command list_nodes --target motherbee", "of one hive"),
            ("ADMIN_ACTION=hive_status fluxbee admin-command", "from variables"),
        ],
    )
    verb.add_argument("action", metavar="ACTION", nargs="?", help="such as list_nodes (default: inventory)")
    verb.add_argument("--target", metavar="HIVE", help="hive that the action is for")
    verb.add_argument("--params", metavar="JSON", help="parameters, a JSON object")
    verb.add_argument("--admin", metavar="NAME", help=f"who is asked (default: {DEFAULT_TARGET})")
    verb.add_argument("--as", metavar="NAME", dest="node_name", help="name to ask as (default: the operator)")
    verb.add_argument("--request-id", metavar="ID", help="comes back in the answer")
    verb.add_argument("--expect", metavar="STATUS", help="end with 1 when the status is another")
    verb.add_argument(
        "--timeout", metavar="S", type=float, help=f"seconds to wait (default {DEFAULT_TIMEOUT_S:g})"
    )
    add_root_argument(verb)


def diagnostics_main() -> int:
    """``admin_internal_command_diag``: ``admin-command`` with everything in variables."""
    from . import main

    return main(["admin-command"])


def _command(args: argparse.Namespace) -> int:
    import trio

    try:
        return trio.run(_ask, args)
    except (FluxbeeError, OSError) as error:
        print_failure(error)
        return ExitCode.USAGE if isinstance(error, Invalid) and error.field in _HELD else ExitCode.FAILED


async def _ask(args: argparse.Namespace) -> int:
    from appliance.sdk import admin_command

    given = os.environ.get
    params = _params(args.params or given("ADMIN_PARAMS_JSON") or "{}")
    timeout_s = args.timeout if args.timeout is not None else _seconds(given("ADMIN_TIMEOUT_SECS"))
    name = args.node_name or given("ADMIN_NODE_NAME")
    paths = hive_paths(args)
    async with visitor(paths, name) if name else operator(paths) as node:
        result = await admin_command(
            node,
            args.action or given("ADMIN_ACTION") or DEFAULT_ACTION,
            target=args.target or given("ADMIN_PAYLOAD_TARGET") or None,
            params=params,
            timeout_s=timeout_s,
            request_id=args.request_id or given("ADMIN_REQUEST_ID") or None,
            admin=args.admin or given("ADMIN_TARGET") or DEFAULT_TARGET,
        )
    print_json(_shown(result))
    expected = args.expect or given("ADMIN_EXPECT_STATUS")
    if expected and result.status != expected:
        sys.stderr.write(f"the status is {result.status}, not {expected}\n")
        return ExitCode.FAILED
    return ExitCode.OK


def _shown(result: AdminResult) -> dict[str, object]:
    keys = ("status", "action", "payload", "error_code", "error_detail", "request_id", "trace_id")
    return {key: getattr(result, key) for key in keys}


def _params(text: str) -> dict[str, Json] | None:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Invalid(f"the parameters are not JSON: {error}", field="ADMIN_PARAMS_JSON") from error
    if value is not None and not isinstance(value, dict):
        raise Invalid("the parameters are no JSON object", field="ADMIN_PARAMS_JSON")
    return value


def _seconds(text: str | None) -> float:
    try:
        return float(text or DEFAULT_TIMEOUT_S)
    except ValueError:
        raise Invalid(f"{text} is no number of seconds", field="ADMIN_TIMEOUT_SECS") from None
