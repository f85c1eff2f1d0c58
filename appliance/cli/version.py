"""``fluxbee version``: which program this is, and on what it runs."""

from __future__ import annotations

import argparse
import platform
import sys

from appliance import __version__

from .frame import Verbs, add_json_argument, add_verb
from .output import ExitCode, print_fields, print_json

__all__ = ["add_parser"]


def add_parser(verbs: Verbs) -> None:
    """Add ``version``."""
    parser = add_verb(
        verbs,
        "version",
        _version,
        summary="say which program this is",
        examples=[
            ("fluxbee version", "for people"),
            ("fluxbee version --json", "for programs"),
        ],
    )
    add_json_argument(parser)


def _version(args: argparse.Namespace) -> int:
    told: dict[str, object] = {
        "version": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "frozen": bool(getattr(sys, "frozen", False)),
    }
    if args.json:
        print_json(told)
    else:
        sys.stdout.write(f"fluxbee {told.pop('version')}\n")
        print_fields(told.items())
    return ExitCode.OK
