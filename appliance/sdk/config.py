"""How a node connects: its name, where the router is, and which uuid it has.

Holds the socket choice of ``spec/node-protocol.md §1.2`` and the uuid files of ``§1.7``. The functions here
touch the disk; call them off the loop.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path

import msgspec

from appliance.system.paths import Paths
from appliance.wire.errors import Damaged, Invalid, Unreachable
from appliance.wire.ids import NodeUuid, canonical_uuid, new_uuid
from appliance.wire.names import base_name, fnv1a64

from .backoff import CAP_S
from .managed import LAUNCH_TOKEN_ENV
from .transport import Transport

__all__ = ["Dial", "NodeConfig", "UuidMode", "load_uuid", "router_candidates"]

Dial = Callable[[], Awaitable[socket.socket | Transport]]
"""How to get a connection when it is not made by connecting to a path."""


class UuidMode(StrEnum):
    """Where the L1 uuid comes from."""

    PERSISTENT = "persistent"
    EPHEMERAL = "ephemeral"


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one node's connection. Only ``name`` is needed.

    Attributes:
        name: ``AI.echo`` or ``AI.echo@hive``; the router completes a bare name with its hive.
        version: free text of the node's author, carried in HELLO and never interpreted.
        paths: where the hive lies; default ``$FLUXBEE_ROOT``, else the reference's places.
        router_socket: socket file, or directory of sockets; default ``paths.routers``.
        dial: makes a connected socket (or transport) instead; ``router_socket`` is then not read.
        uuid_mode: persistent (one file per base name) or fresh per connection.
        uuid_dir: directory of uuid files; default ``paths.node_uuids``.
        uuid: this very uuid, instead of a file or a fresh one.
        blob_root: root of the blob store; default ``paths.blob``.
        handshake_timeout_s: from connecting to ANNOUNCE.
        reconnect_cap_s: longest wait between two attempts to reconnect.
        outbound_limit: messages queued to be sent; a sender waits when it is reached.
        outbound_limit_bytes: the same in bytes.
        outbound_deadline_s: how long a queued message may wait for a connection before it is dropped.
        inbound_limit: received messages held for the node before the socket is no longer read.
        inbound_limit_waiting: the same while a request of this node waits for its reply.
        close_timeout_s: how long leaving may take to send what is queued.
        answer_status: answer NODE_STATUS_GET; default from ``NODE_STATUS_DEFAULT_HANDLER_ENABLED``, else yes.
        answer_echo: answer ECHO.
        launch_token: what the supervisor gave this process; default ``$FLUXBEE_LAUNCH_TOKEN``.
    """

    name: str
    version: str = "1.0"
    paths: Paths = msgspec.field(default_factory=Paths.from_environment)
    router_socket: Path | None = None
    dial: Dial | None = None
    uuid_mode: UuidMode = UuidMode.PERSISTENT
    uuid_dir: Path | None = None
    uuid: str | None = None
    blob_root: Path | None = None
    handshake_timeout_s: float = 5.0
    reconnect_cap_s: float = CAP_S
    outbound_limit: int = 256
    outbound_limit_bytes: int = 4 * 1024 * 1024
    outbound_deadline_s: float = 60.0
    inbound_limit: int = 256
    inbound_limit_waiting: int = 4096
    close_timeout_s: float = 2.0
    answer_status: bool | None = None
    answer_echo: bool = False
    launch_token: str | None = msgspec.field(default_factory=lambda: os.environ.get(LAUNCH_TOKEN_ENV))

    def __post_init__(self) -> None:
        base = base_name(self.name)
        if not base or "/" in base or "\0" in base or base in (".", ".."):
            raise Invalid(
                f"{self.name!r} is no node name", field="name", remedy="Use a name such as AI.echo."
            )


def router_candidates(path: Path, name: str) -> list[Path]:
    """The sockets to try for the node ``name``, in order.

    Args:
        path: a socket file (the only candidate), or a directory: its ``*.sock`` except ``irp-*``, sorted,
            starting at ``fnv1a64(base name) mod n`` and wrapping.
        name: the node's configured name.

    Raises:
        Unreachable: the directory holds no router socket (code ``NO_ROUTER``).
    """
    if not path.is_dir():
        return [path]
    sockets = sorted(
        str(entry)
        for entry in path.iterdir()
        if entry.name.endswith(".sock") and not entry.name.startswith("irp-")
    )
    if not sockets:
        raise Unreachable(
            f"no router sockets found in {path}",
            code="NO_ROUTER",
            remedy="Start the router with `fluxbee run`, or name its socket directory.",
        )
    start = fnv1a64(base_name(name)) % len(sockets)
    return [Path(entry) for entry in sockets[start:] + sockets[:start]]


def load_uuid(directory: Path, name: str) -> NodeUuid:
    """The persistent uuid of ``name``: 36 characters in ``<directory>/<base name>.uuid``, made when absent.

    The file appears whole or not at all, and of two processes that make it at once one wins for both.

    Raises:
        Damaged: the file is there and holds no uuid; it is never replaced by itself.
        OSError: the directory cannot be read or written.
    """
    target = directory / f"{base_name(name)}.uuid"
    with contextlib.suppress(FileNotFoundError):
        return _read_uuid(target)
    directory.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=directory)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(new_uuid())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        with contextlib.suppress(FileExistsError):
            os.link(draft, target)
    finally:
        os.unlink(draft)
    return _read_uuid(target)


def _read_uuid(path: Path) -> NodeUuid:
    text = path.read_bytes()
    found = canonical_uuid(text.decode(errors="replace").strip())
    if found is None:
        raise Damaged(
            f"{path} holds no uuid",
            code="UUID_FILE_DAMAGED",
            remedy="Restore the file, or remove it to give the node a new uuid.",
        )
    return found
