"""``fluxbee scaffold`` and ``fluxbee-scaffold``: start a package, pack it (``spec/admin-api.md §E.4``)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from appliance.wire.errors import FluxbeeError

from .frame import Parser, Verbs, add_verb, add_verb_group, completes
from .output import ExitCode, clean, print_failure

__all__ = ["add_parser", "main"]

_TYPES: Final = ("full_runtime", "config_only", "workflow")
_EXAMPLES: Final = (
    ("fluxbee scaffold new --name ai.greeter --type full_runtime", "start a package"),
    ("fluxbee scaffold pack ./ai.greeter --binary ./greeter", "pack it for an upload"),
)


def add_parser(verbs: Verbs) -> None:
    """Add ``scaffold new`` and ``scaffold pack``."""
    _add(add_verb_group(verbs, "scaffold", summary="start and pack packages of runtimes", examples=_EXAMPLES))


def _add(group: Verbs) -> None:
    new = add_verb(group, "new", _new, summary="write the skeleton of a package", examples=_EXAMPLES[:1])
    new.add_argument("--name", required=True, help="lower case, parts with dots: ai.greeter")
    new.add_argument("--type", required=True, choices=_TYPES, help="what it is")
    new.add_argument("--version", default="0.1.0", help="MAJOR.MINOR.PATCH (default: 0.1.0)")
    new.add_argument("--base", help="runtime that it belongs to, for config_only and workflow")
    outdir = new.add_argument("outdir", nargs="?", type=Path, help="directory to make (default: the name)")
    completes(outdir, "directory")
    pack = add_verb(group, "pack", _pack, summary="pack a package into a zip", examples=_EXAMPLES[1:])
    completes(pack.add_argument("directory", type=Path, help="the package"), "directory")
    completes(pack.add_argument("--binary", type=Path, metavar="FILE", help="goes in as bin/node"), "file")
    completes(pack.add_argument("--output", type=Path, metavar="ZIP", help="the zip to write"), "file")


def _new(args: argparse.Namespace) -> int:
    from appliance.supervise.scaffold import create_skeleton

    directory = args.outdir or Path(args.name)
    files = create_skeleton(
        directory, name=args.name, package_type=args.type, version=args.version, base=args.base
    )
    print(f"Created: {clean(directory)}")
    for path in files:
        print(f"  {path}")
    return ExitCode.OK


def _pack(args: argparse.Namespace) -> int:
    from appliance.supervise.scaffold import pack_bundle

    report = pack_bundle(args.directory, binary=args.binary, output=args.output)
    print(f"Packed: {clean(report.bundle)} (files={report.files} bytes={report.size_bytes})")
    return ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    """The program ``fluxbee-scaffold``; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].startswith("--") and words[0] != "--help":
        words.insert(0, "new")
    parser = Parser(prog="fluxbee-scaffold", description="Start and pack packages of runtimes.")
    _add(parser.add_subparsers(title="verbs", metavar="VERB", required=True, dest="scaffold_verb"))
    args = parser.parse_args(words)
    try:
        return int(args.handler(args))
    except (FluxbeeError, OSError) as error:
        return print_failure(error, as_json=False)
