"""What all verbs have in common: how a parser looks, shared options, errors of usage.

A verb module has ``add_parser(subparsers)``, which calls :func:`add_verb` and sets a handler
``(Namespace) -> int``. Modules import what is heavy (trio, lmdb, the settings) inside the handler, so that
``fluxbee --help`` stays quick.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NoReturn

from .output import ExitCode, clean, paint

if TYPE_CHECKING:
    from appliance.settings import Configuration

__all__ = [
    "Example",
    "Handler",
    "Parser",
    "Verbs",
    "add_config_arguments",
    "add_json_argument",
    "add_verb",
    "add_verb_group",
    "completes",
    "load_configuration",
]

Handler = Callable[[argparse.Namespace], int]
"""Runs a verb and returns its exit code; errors of the tree are raised."""

Example = tuple[str, str]
"""A command line, and what it is for."""

CompletionKind = Literal["file", "directory", "setting"]


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)
        self._action_max_length = 14  # argparse forgets the indent of verbs and wraps after the longest one


class Parser(argparse.ArgumentParser):
    """An argument parser with our manners: no abbreviations, short errors with a remedy, exit code 2."""

    def __init__(self, **options: object) -> None:
        options.setdefault("formatter_class", _HelpFormatter)
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the command line and leave with code 2."""
        # argparse tells the wrong word in its message only: quoted, or behind the colon.
        quoted = message.partition("'")[2].partition("'")[0]
        nearest = self._nearest(quoted or message.rpartition(": ")[2].split(" ")[0])
        if message.startswith("argument VERB: invalid choice"):
            message = f"there is no verb '{quoted}'"
        sys.stderr.write(f"{paint('fluxbee:', 'red', sys.stderr)} {clean(message)}\n")
        remedy = f"Did you mean `{nearest}`? " if nearest else ""
        sys.stderr.write(f"  remedy: {remedy}`{self.prog} --help` shows what there is.\n")
        sys.exit(ExitCode.USAGE)

    def _nearest(self, wrong: str) -> str | None:
        known = [option for action in self._actions for option in action.option_strings]
        for action in self._actions:
            known.extend(str(choice) for choice in action.choices or ())
        return next(iter(difflib.get_close_matches(wrong, known, n=1)), None)


if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[Parser]
else:
    Verbs = argparse._SubParsersAction
"""What :func:`add_verb` adds to: the top level's verbs, or those of a group."""


def add_verb(
    verbs: Verbs, name: str, handler: Handler, *, summary: str, examples: Sequence[Example], details: str = ""
) -> Parser:
    """Add one verb.

    Args:
        verbs: where to.
        name: the word that is typed.
        handler: what runs it.
        summary: one line for the list of verbs, without a full stop.
        examples: at least one; they end the verb's ``--help``.
        details: what else ``--help`` says.

    Returns:
        The verb's parser, for its arguments.
    """
    parser = _new_parser(verbs, name, summary, examples, details)
    parser.set_defaults(handler=handler)
    return parser


def add_verb_group(verbs: Verbs, name: str, *, summary: str, examples: Sequence[Example]) -> Verbs:
    """Add a word that has verbs of its own, such as ``config``; returns where to add them."""
    parser = _new_parser(verbs, name, summary, examples, "")
    return parser.add_subparsers(title="verbs", metavar="VERB", required=True, dest=f"{name}_verb")


def _new_parser(verbs: Verbs, name: str, summary: str, examples: Sequence[Example], details: str) -> Parser:
    assert examples, f"{name}: a verb without an example helps nobody"
    description = f"{summary[0].upper()}{summary[1:]}."
    return verbs.add_parser(
        name,
        help=summary,
        description=f"{description}\n\n{details}".rstrip(),
        epilog=examples_text(examples),
    )


def examples_text(examples: Sequence[Example]) -> str:
    """The last section of a ``--help``."""
    width = max(len(command) for command, _ in examples)
    return "examples:\n" + "\n".join(f"  {command:<{width}}   {purpose}" for command, purpose in examples)


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, after which output and errors are JSON; read it as ``args.json``."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--root``, which :func:`load_configuration` reads."""
    config = parser.add_argument(
        "--config", metavar="FILE", help="hive.yaml to read (default: the box's own)"
    )
    root = parser.add_argument("--root", metavar="DIR", help="directory of etc, lib and run")
    completes(config, "file")
    completes(root, "directory")


def load_configuration(args: argparse.Namespace) -> Configuration:
    """The configuration that ``--config`` and ``--root`` select.

    Raises:
        SettingsError: (a ``Misconfigured``) it is refused.
    """
    from appliance.settings import load

    return load(args.config, overrides={"root": args.root} if args.root else None)


def completes(action: argparse.Action, kind: CompletionKind) -> None:
    """Say what the shell shall complete for an argument that has no choices."""
    action.completes = kind  # type: ignore[attr-defined]
