"""Which hive a verb talks to, and as whom.

Without ``--root`` and ``$FLUXBEE_ROOT`` the reference's places count, and, where no hive runs in those,
``./var`` of a checkout: so that ``make run`` in one shell and ``fluxbee send`` in the next find each other.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.system.paths import Paths
from appliance.wire.errors import FluxbeeError, Refused

from .frame import completes

if TYPE_CHECKING:
    from appliance.sdk import Node

__all__ = ["add_root_argument", "hive_paths", "operator", "until_told", "visitor"]


def add_root_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--root``; read it with :func:`hive_paths`."""
    root = parser.add_argument(
        "--root", metavar="DIR", help="directory of etc, lib and run (default: the box's own, else ./var)"
    )
    completes(root, "directory")


def hive_paths(args: argparse.Namespace) -> Paths:
    """Where the hive lies that this command line means."""
    paths = Paths.from_environment(args.root)
    if paths.root is None and not _has_router(paths):
        here = Paths(Path.cwd() / "var")
        if here.hive_yaml.is_file():
            return here
    return paths


def _has_router(paths: Paths) -> bool:
    try:
        return any(paths.routers.glob("*.sock"))
    except OSError:
        return False


async def until_told(serve: Callable[[], Awaitable[None]]) -> None:
    """Run ``serve`` until it ends, or until SIGTERM or Ctrl-C says that it is enough: a clean stop."""
    import signal

    import trio

    async with trio.open_nursery() as nursery:

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                task_status.started()
                async for _ in signals:
                    nursery.cancel_scope.cancel()

        await nursery.start(listen)
        await serve()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def visitor(paths: Paths, name: str) -> AsyncIterator[Node]:
    """Connect as an ordinary node with a fresh uuid."""
    from appliance.sdk import NodeConfig, UuidMode, connect

    async with connect(NodeConfig(name=name, paths=paths, uuid_mode=UuidMode.EPHEMERAL)) as node:
        yield node


@asynccontextmanager
async def operator(paths: Paths) -> AsyncIterator[Node]:
    """Connect with the right to ask the router about itself, as far as this account has it.

    A privileged account gets an ``SY.`` name; any other one an ordinary name, which the router answers if
    ``security.admin_nodes`` lists it.
    """
    from appliance.wire.ids import new_uuid

    tag = new_uuid()[:8]
    try:
        async with visitor(paths, f"SY.cli.{tag}") as node:
            yield node
            return
    except Refused as error:
        if not _at_hello(error):
            raise
    async with visitor(paths, f"IO.cli.{tag}") as node:
        yield node


def _at_hello(error: FluxbeeError) -> bool:
    return error.code == "HANDSHAKE_REFUSED"
