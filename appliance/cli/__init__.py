"""The command ``fluxbee``: one file per group of verbs, and the frame around them.

:func:`main` parses, runs the verb's handler and turns errors into messages with a remedy and documented exit
codes. Starting it imports neither trio nor lmdb; the handlers do that when they need them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence

from appliance import __version__
from appliance.wire.errors import FluxbeeError

from .frame import Parser, examples_text
from .output import ExitCode, print_failure

__all__ = ["VERB_MODULES", "build_parser", "main"]

VERB_MODULES = (
    "run",
    "status",
    "node",
    "send",
    "tap",
    "world",
    "runtime",
    "hive",
    "deployments",
    "diagnostics",
    "publish",
    "scaffold",
    "config",
    "completion",
    "version",
    "selfcheck",
)
"""Modules of this package with ``add_parser(subparsers)``, in the order of ``fluxbee --help``."""

_EXAMPLES = (
    ("fluxbee run --config config/development.yaml", "run a motherbee below ./var"),
    ("fluxbee config check", "is hive.yaml right?"),
    ("fluxbee config explain wan.listen", "what counts, and why"),
)


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="fluxbee",
        description="Fluxbee Edge: the nervous system of an AI-agent cluster on a small box.",
        epilog=examples_text(_EXAMPLES),
    )
    parser.add_argument("--version", action="version", version=f"fluxbee {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb")
    for name in VERB_MODULES:
        importlib.import_module(f"{__name__}.{name}").add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code (``docs/reference/exit-codes.md``).

    Args:
        argv: the words after ``fluxbee``; ``None`` means this process's.

    Raises:
        SystemExit: from argparse, after ``--help``, ``--version`` or a mistake in the command line.
    """
    with contextlib.suppress(AttributeError, ValueError):  # a test's stdout may not be a real one
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    parser = build_parser()
    args = argparse.Namespace()
    try:
        args = parser.parse_args(argv)
        if args.verb is None:
            parser.print_help(sys.stderr)
            return ExitCode.USAGE
        code = int(args.handler(args))
        sys.stdout.flush()
        return code
    except (FluxbeeError, OSError, KeyboardInterrupt) as error:
        return _fail(error, args)
    except BaseExceptionGroup as group:
        told = _telling(group)
        if told is None:
            raise
        return _fail(told, args)


def _fail(error: BaseException, args: argparse.Namespace) -> ExitCode:
    code = print_failure(error, as_json=getattr(args, "json", False))
    if code is ExitCode.PIPE_CLOSED:
        # What is still buffered has no reader; without this the interpreter complains while it ends.
        with open(os.devnull, "wb") as nowhere, contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return code


def _telling(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The error of a nursery that tells the user what happened; ``None`` when one of them is a defect."""
    leaves = list(_leaves(group))
    for kind in (KeyboardInterrupt, FluxbeeError, OSError):
        for leaf in leaves:
            if isinstance(leaf, kind) and all(
                isinstance(one, FluxbeeError | OSError | KeyboardInterrupt) for one in leaves
            ):
                return leaf
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
