"""What the operators' verbs have in common: where the admin API is, which hive is meant, what is printed.

The verbs speak HTTP only, so they work against another box as well as against this one. Where the API listens
is taken from ``--base``, ``$FLUXBEE_BASE``, ``$BASE``, else from this box's own configuration; the token from
``$FLUXBEE_HTTP_TOKEN``, else from there, too. ``--json`` prints the payload of the envelope and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound

from .frame import add_json_argument
from .output import print_json
from .places import add_root_argument, hive_paths

if TYPE_CHECKING:
    from .api import AdminApi, Envelope

__all__ = [
    "Operator",
    "add_operator_arguments",
    "given_config",
    "local_access",
    "show",
    "spinning",
    "when",
]

BASE_ENVS: Final = ("FLUXBEE_BASE", "BASE")

_BY_CODE: Final[Mapping[str, tuple[type[FluxbeeError], str | None]]] = {
    "NODE_ALREADY_EXISTS": (
        Conflict,
        "`fluxbee node start` starts it again; `fluxbee node rm` forgets it.",
    ),
    "NODE_CONFIG_NOT_FOUND": (NotFound, "`fluxbee node list` shows which nodes there are."),
    "NODE_NOT_FOUND": (NotFound, "`fluxbee node list --all` shows which nodes there are."),
    "NODE_INSTANCE_RUNNING": (Conflict, "Stop it first, with `fluxbee node kill`, or use --force."),
    "RUNTIME_NOT_AVAILABLE": (NotFound, "`fluxbee runtime list` shows what is published."),
    "RUNTIME_NOT_FOUND": (NotFound, "`fluxbee runtime list` shows what is published."),
    "RUNTIME_NOT_PRESENT": (NotFound, "Its files are not on this hive yet: `fluxbee update`."),
    "BASE_RUNTIME_NOT_AVAILABLE": (NotFound, "Publish the runtime that it is based on."),
    "BASE_RUNTIME_NOT_PRESENT": (NotFound, "Publish the runtime that it is based on."),
    "IDENTITY_REGISTER_FAILED": (
        Invalid,
        "Give a tenant: --tenant tnt:<uuid>, $TENANT_ID, or orchestrator.default_tenant_id in hive.yaml.",
    ),
    "NOT_PRIMARY": (Conflict, "Ask the motherbee, with --base."),
}
"""Codes that the HTTP status alone does not explain (``spec/admin-api.md §A.5``: most of them are 500)."""


def add_operator_arguments(parser: argparse.ArgumentParser, *, hive: bool = True) -> None:
    """Add ``--base``, ``--root``, ``--json`` and, unless it makes no sense, ``--hive``."""
    parser.add_argument(
        "--base", metavar="URL", help="the admin API (default: $FLUXBEE_BASE, this box's own)"
    )
    if hive:
        parser.add_argument("--hive", metavar="ID", help="which hive (default: the one that answers)")
    add_json_argument(parser)
    add_root_argument(parser)


def local_access(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """Address and token of this box's own admin API, as far as its configuration tells them."""
    from appliance.settings import load

    paths = hive_paths(args)
    if not os.access(paths.hive_yaml, os.R_OK):
        return None, None
    try:
        settings = load(paths.hive_yaml, overrides={"root": str(paths.root)} if paths.root else None).settings
    except FluxbeeError:
        return None, None  # `fluxbee config check` is for that; the usual address may still answer
    host, _, port = settings.admin.listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
    return (f"http://{host}:{port}" if port != "0" else None), settings.http.token


class Operator:
    """One command's view of the admin API."""

    def __init__(self, args: argparse.Namespace) -> None:
        from .api import DEFAULT_BASE, TOKEN_ENV, AdminApi

        named = args.base or next((os.environ[name] for name in BASE_ENVS if os.environ.get(name)), None)
        base, token = (named, None) if named else local_access(args)
        self.api: AdminApi = AdminApi(base or DEFAULT_BASE, os.environ.get(TOKEN_ENV) or token)
        self._hive: str | None = getattr(args, "hive", None)

    @property
    def hive(self) -> str:
        """The hive that is meant: ``--hive``, else the one that answers."""
        if self._hive is None:
            self._hive = str(self.get("/hive/status").fields().get("hive_id") or "")
            if not self._hive:
                raise NotFound("the hive does not say what it is called", remedy="Name it with --hive.")
        return self._hive

    def node_path(self, name: str, *more: str) -> str:
        """The path of a node; a hive in its name wins over ``--hive``."""
        from .api import quoted

        local, at, hive = name.rpartition("@")
        hive = hive if at else self.hive
        full = f"{local if at else name}@{hive}"
        return "/".join(("", "hives", quoted(hive), "nodes", quoted(full), *more))

    def hive_path(self, *more: str) -> str:
        """A path below the hive that is meant."""
        from .api import quoted

        return "/".join(("", "hives", quoted(self.hive), *map(quoted, more)))

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Envelope:
        """GET, as :meth:`ask`; absent values of ``query`` are left out."""
        given = {key: value for key, value in (query or {}).items() if value is not None}
        return self.ask("GET", f"{path}?{urlencode(given)}" if given else path)

    def ask(self, method: str, path: str, body: object = None, *, timeout_s: float = 35.0) -> Envelope:
        """One request; an answer that tells a failure is raised as the error that it tells."""
        answer = self.api.call(method, path, body, timeout_s)
        try:
            return answer.checked()
        except FluxbeeError as error:
            raise explained(error) from None


def explained(error: FluxbeeError) -> FluxbeeError:
    """``error`` as the class that says what can be done, with a remedy, where its code tells more."""
    kind, remedy = _BY_CODE.get(error.code, (type(error), None))
    return kind(error.message, code=error.code, remedy=remedy or kind.remedy) if remedy else error


def show(args: argparse.Namespace, answer: Envelope, people: Callable[[dict[str, object]], None]) -> None:
    """Print the payload for programs, or let ``people`` print it."""
    if args.json:
        print_json(answer.payload)
    else:
        people(answer.fields())


def given_config(args: argparse.Namespace) -> dict[str, object]:
    """What ``--config`` and ``--set`` say together.

    ``--config`` is a file, or JSON in place; ``--set`` is ``key=value``, where the value is JSON if it reads
    as that, the content of a file after ``@``, and text otherwise.

    Raises:
        Invalid: one of them says nothing that can be used.
    """
    config: dict[str, object] = {}
    if args.config:
        text = args.config if args.config.lstrip().startswith("{") else _content(args.config, "--config")
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Invalid(f"--config is not JSON: {error}", field="--config") from error
        if not isinstance(found, dict):
            raise Invalid("--config is no JSON object", field="--config")
        config.update(found)
    for pair in args.set or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Invalid(f"--set {pair}: write key=value", field="--set")
        config[key] = _value(value)
    return config


def _value(text: str) -> object:
    if text.startswith("@"):
        return _content(text[1:], "--set").rstrip("\n")
    try:
        return json.loads(text)
    except ValueError:
        return text


def _content(path: str, option: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{option}: cannot read {path}: {error}", field=option) from error


def when(at_ms: object) -> str:
    """A time of the API (epoch milliseconds, also as text) in local time; nothing for nothing."""
    if isinstance(at_ms, str) and not at_ms.isdigit():
        return at_ms
    if not isinstance(at_ms, int | float | str) or not at_ms:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(at_ms) / 1000))


@contextlib.contextmanager
def spinning(text: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that something goes on; yields what says how it stands. Silent elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    frames = itertools.cycle("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

    def turn(state: str) -> None:
        sys.stderr.write(f"\r\033[K{next(frames)} {text}: {state}")
        sys.stderr.flush()

    try:
        yield turn
    finally:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()
