"""What the world's verbs share: where the world is, how an answer is shown, how a word is read."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from appliance.wire.errors import Invalid

from .frame import Parser, add_json_argument
from .output import ExitCode, clean, print_fields, print_json
from .places import add_root_argument, hive_paths

if TYPE_CHECKING:
    from .world_api import WorldApi

__all__ = ["add_common", "api_of", "parsed", "plain", "show"]


def add_common(parser: Parser) -> None:
    """Add ``--url``, ``--json`` and ``--root``."""
    parser.add_argument("--url", metavar="URL", help="where the world is (default $FLUX_URL, else this box)")
    add_json_argument(parser)
    add_root_argument(parser)


def api_of(args: argparse.Namespace) -> WorldApi:
    """The world that a command line means: the one that is named, else this box's own with its token."""
    from .world_api import URL_ENV, WorldApi, local_access

    if args.url or os.environ.get(URL_ENV):
        return WorldApi(args.url)
    base, admin_token = local_access(hive_paths(args))
    return WorldApi(base, admin_token=admin_token)


def show(args: argparse.Namespace, answer: object) -> int:
    """Print an answer: JSON for programs, names and values for people."""
    if args.json or not isinstance(answer, dict):
        print_json(answer)
    else:
        print_fields((clean(name), plain(value)) for name, value in answer.items())
    return ExitCode.OK


def plain(value: object) -> str:
    """A value as people read it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parsed(text: str, what: str) -> object:
    """A word that holds JSON; ``Invalid`` names ``what`` it was to be."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise Invalid(f"{what} is not JSON: {error}", field=what) from error
