"""``fluxbee world connectors|source``: what feeds the world, and adding to it."""

from __future__ import annotations

import argparse
import os
import sys
from urllib.parse import quote

from appliance.wire.errors import Invalid

from .frame import Verbs, add_verb
from .output import ExitCode, print_json, print_table
from .world_words import add_common, api_of, show

__all__ = ["SOURCE_TOKEN_ENV", "add_source_verbs"]

SOURCE_TOKEN_ENV = "FLUX_SOURCE_TOKEN"  # noqa: S105 -- the variable's name
_PATH = "/api/connector-manager/connectors"


def add_source_verbs(group: Verbs) -> None:
    """Add ``connectors``, ``add-source`` and ``remove-source``."""
    connectors = add_verb(
        group,
        "connectors",
        _connectors,
        summary="what feeds this box",
        examples=[("fluxbee world connectors", "")],
    )
    add = add_verb(
        group,
        "add-source",
        _add,
        summary="ask a JSON document again and again",
        examples=[
            ("fluxbee world add-source http://10.0.0.9/api/energy plant/meter-2", "the whole document"),
            (
                "fluxbee world add-source http://10.0.0.9/api plant/meter-2 kwh=total.kwh volts=phases[0].u",
                "some values of it",
            ),
        ],
    )
    add.add_argument("address", metavar="ADDRESS", help="http:// or https://")
    add.add_argument("entity", metavar="ENTITY", help="what it feeds: namespace/name")
    add.add_argument("mapping", metavar="PROPERTY=PATH", nargs="*", help="which values (default: all)")
    add.add_argument("--name", metavar="NAME", help="what people call it (default: the entity)")
    add.add_argument("--every", metavar="SECONDS", type=float, default=30.0, help="how often (default 30)")
    add.add_argument(
        "--auth",
        metavar="HOW",
        default="none",
        help=f"how ${SOURCE_TOKEN_ENV} is sent: none, bearer, or the name of a header",
    )
    remove = add_verb(
        group,
        "remove-source",
        _remove,
        summary="stop asking a source; what it published stays",
        examples=[("fluxbee world remove-source 'Line 2 meter'", "by name or id")],
    )
    remove.add_argument("source", metavar="SOURCE", help="its name or id")
    for parser in (connectors, add, remove):
        add_common(parser)


def _connectors(args: argparse.Namespace) -> int:
    sources = api_of(args).call("GET", _PATH)
    if args.json or not isinstance(sources, list):
        print_json(sources)
        return ExitCode.OK
    rows = [(one["name"], one["type"], one["status"], one.get("last_error")) for one in sources]
    print_table(["SOURCE", "KIND", "STATE", "ERROR"], rows)
    return ExitCode.OK


def _add(args: argparse.Namespace) -> int:
    namespace, slash, key = args.entity.partition("/")
    if not slash:
        raise Invalid(f"{args.entity!r} is not namespace/name", field="ENTITY")
    body: dict[str, object] = {
        "name": args.name or args.entity,
        "url": args.address,
        "poll_interval_secs": args.every,
        "namespace": namespace,
        "entity_key": key,
    }
    if args.mapping:
        pairs = [one.partition("=") for one in args.mapping]
        if wrong := next((one for one in args.mapping if "=" not in one), None):
            raise Invalid(f"{wrong!r} is not PROPERTY=PATH", field="PROPERTY=PATH")
        body["mapping"] = {name: path for name, _, path in pairs}
    if args.auth != "none":
        # Not an argument: those are visible to every process of the machine.
        body["token"] = os.environ.get(SOURCE_TOKEN_ENV)
        if not body["token"]:
            raise Invalid(f"{SOURCE_TOKEN_ENV} not set", field="--auth", remedy="Put the token into it.")
        body["auth_type"] = "bearer" if args.auth == "bearer" else {"api_key_header": args.auth}
    return show(args, api_of(args).act("POST", f"{_PATH}/generic", body))


def _remove(args: argparse.Namespace) -> int:
    api = api_of(args)
    listed = api.call("GET", _PATH)
    known = [one for one in listed if "source_id" in one] if isinstance(listed, list) else []
    found = [one for one in known if args.source in (one["source_id"], one["name"])]
    if len(found) != 1:
        what = "no source is" if not found else f"{len(found)} sources are"
        raise Invalid(
            f"{what} called {args.source!r}",
            field="SOURCE",
            remedy="`fluxbee world connectors --json` shows ids.",
        )
    kind = quote(str(found[0]["type"]), safe="")
    api.act("DELETE", f"{_PATH}/{kind}/{quote(found[0]['source_id'], safe='')}")
    if not args.json:
        sys.stdout.write(f"{args.source} is asked no more\n")
        return ExitCode.OK
    return show(args, {"removed": found[0]["source_id"]})
