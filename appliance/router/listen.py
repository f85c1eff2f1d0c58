"""The router's listening socket: where nodes find it, who may open it, what a stale file means.

A socket file whose owner died only refuses connections; it is removed. One that answers belongs to a
running router, and starting a second one there is an error, not a takeover. What else lies in our place is
removed when it is a file or a link; a directory is named in an error.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from contextlib import suppress
from pathlib import Path

from appliance.system.paths import router_socket_name
from appliance.wire.errors import Conflict, Misconfigured, Unavailable

__all__ = ["BACKLOG", "check_socket_directory", "listen_for_nodes"]

BACKLOG = 1024
"""Connections that may wait to be accepted: a hive's nodes all come back at once after a restart."""

_MAX_PATH_BYTES = 107
"""``sun_path`` of Linux holds 108 bytes with the final NUL."""


def check_socket_directory(directory: Path) -> None:
    """See that a socket in ``directory`` can have a name.

    Raises:
        Misconfigured: the path would be longer than Linux takes.
    """
    path = directory / router_socket_name("0" * 32)
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise Misconfigured(
            f"root: {path} is too long for a socket (at most {_MAX_PATH_BYTES} bytes)",
            remedy="Choose a shorter root directory.",
        )


def listen_for_nodes(directory: Path, router_uuid: str, *, mode: int, group: str) -> socket.socket:
    """Bind the node socket and listen; other routers' dead sockets in ``directory`` are removed.

    Args:
        directory: where nodes look (``Paths.routers``).
        router_uuid: canonical text; names the file.
        mode: permission bits of the socket file.
        group: its group; where the group does not exist the socket keeps the process's own.

    Raises:
        Conflict: a router serves there already.
        Misconfigured: the path is too long for a socket, or there is a directory.
        Unavailable: the directory or socket cannot be made.
    """
    check_socket_directory(directory)
    path = directory / router_socket_name(router_uuid.replace("-", ""))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_dead(directory)
        _clear(path)
        _bind(listener, path, mode, group)
        listener.setblocking(False)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"cannot listen on {path}: {error.strerror}",
            remedy="Check owner, rights and free space of its directory.",
        ) from error
    except BaseException:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Free our own place, unless somebody answers there."""
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(found):
        raise Conflict(f"a router serves on {path} already", remedy="Stop it first: `fluxbee status`.")
    if stat.S_ISDIR(found):
        raise Misconfigured(
            f"root: {path} is a directory where the node socket belongs",
            remedy="Remove that directory, or choose another root.",
        )
    path.unlink()


def _bind(listener: socket.socket, path: Path, mode: int, group: str) -> None:
    # The file must never exist with wider permissions than it ends up with.
    umask = os.umask(0o777 & ~(mode & 0o700))
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(umask)
    # A development box may not have the group; the mode below then applies to the process's own.
    with suppress(LookupError, PermissionError):
        shutil.chown(path, group=group)
    path.chmod(mode)


def _remove_dead(directory: Path) -> None:
    for path in directory.glob("*.sock"):
        with suppress(FileNotFoundError):  # somebody else was tidying up
            if stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
                path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True  # its backlog is full: somebody is there
        except OSError:
            return False
        return True
