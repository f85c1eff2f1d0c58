"""A node's instance directory: ``config.json``, ``state.json`` and what surrounds them.

Directories are 0700, files 0600, JSON is pretty-printed and replaced whole (``spec/admin-api.md §D.1``).
``config.json`` is made exactly once: of two creators one gets ``NODE_ALREADY_EXISTS``. ``state.json`` is the
node's own and only read here. Blocking calls: run them in a thread when the medium may be slow.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from appliance.sdk.managed import managed_node_instance_dir
from appliance.store.files import durable_replace, storage_error
from appliance.system.paths import Paths
from appliance.wire.errors import Conflict, Damaged, NotFound, Unavailable

__all__ = [
    "CONFIG_FILE",
    "STATE_FILE",
    "FileFacts",
    "Instance",
    "Removed",
    "clean_instances",
    "instance_places",
    "list_instances",
    "pretty_json",
    "read_of_node",
]

CONFIG_FILE: Final = "config.json"
STATE_FILE: Final = "state.json"

_REMOVING: Final = ".removing-"
_DRAFT: Final = ".config."

_REMOVAL_S: Final = 60.0

_LIMIT_BYTES: Final = 4 << 20
"""A larger config.json or state.json is not read: it was not written by us, and would fill the plane."""

Document = dict[str, object]


class FileFacts(msgspec.Struct, frozen=True):
    """Whether a file exists, parses to an object, and when it changed (ms since 1970)."""

    exists: bool = False
    valid: bool = False
    updated_at_ms: int | None = None


class Removed(msgspec.Struct, frozen=True):
    """What a removal took away; ``kind_directory`` when the kind's directory was empty behind it."""

    directory: Path
    kind_directory: bool


class Instance:
    """Files of the node ``name`` (full L2 name).

    Raises:
        Invalid: ``name`` would leave the directory of nodes.
    """

    __slots__ = ("directory", "name")

    def __init__(self, paths: Paths, name: str) -> None:
        self.name = name
        self.directory = managed_node_instance_dir(name, paths.nodes)

    @property
    def config_path(self) -> Path:
        """Effective configuration with ``_system``."""
        return self.directory / CONFIG_FILE

    @property
    def state_path(self) -> Path:
        """What the node says about itself."""
        return self.directory / STATE_FILE

    @property
    def exists(self) -> bool:
        """Whether the directory is there."""
        return self.directory.is_dir()

    # --- config.json -----------------------------------------------------------------------------------

    def read_config(self) -> Document:
        """The stored configuration.

        Raises:
            NotFound: ``NODE_CONFIG_NOT_FOUND``.
            Unavailable: ``NODE_CONFIG_READ_FAILED``.
            Damaged: ``NODE_CONFIG_INVALID``, not a JSON object.
        """
        path = self.config_path
        try:
            return _read_object(path)
        except FileNotFoundError:
            raise NotFound(f"{path} does not exist", code="NODE_CONFIG_NOT_FOUND") from None
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}", code="NODE_CONFIG_READ_FAILED") from error
        except ValueError as error:
            raise Damaged(f"{path}: {error}", code="NODE_CONFIG_INVALID") from error

    def config(self) -> tuple[Document | None, FileFacts]:
        """The stored configuration (``None``: missing or wrong), and what is known of the file."""
        return _facts(self.config_path)

    def create_config(self, config: Document) -> None:
        """Write the first configuration.

        Raises:
            Conflict: ``NODE_ALREADY_EXISTS``.
            Unavailable: ``CONFIG_WRITE_FAILED``.
        """
        draft = self.directory / f"{_DRAFT}{uuid.uuid4().hex}.tmp"
        try:
            self.make()
            try:
                _write_new(draft, pretty_json(config))
                os.link(draft, self.config_path)  # fails when the target exists, and shows it whole
            finally:
                draft.unlink(missing_ok=True)
            _sync_directory(self.directory)
        except FileExistsError:
            raise Conflict(
                f"{self.name} exists already: {self.config_path}",
                code="NODE_ALREADY_EXISTS",
                remedy="Start it, or remove its instance first.",
            ) from None
        except OSError as error:
            for place in (self.directory, self.directory.parent):
                with suppress(OSError):  # only when nothing is in it: a full disk leaves no ghost of a node
                    place.rmdir()
            raise Unavailable(f"{self.config_path}: {error.strerror}", code="CONFIG_WRITE_FAILED") from error

    def replace_config(self, config: Document) -> None:
        """Replace the configuration.

        Raises:
            Unavailable: ``CONFIG_WRITE_FAILED``; the old one is still there.
        """
        try:
            durable_replace(self.config_path, pretty_json(config), 0o600)
        except (Unavailable, NotFound) as error:
            raise Unavailable(error.message, code="CONFIG_WRITE_FAILED", remedy=error.remedy) from error

    # --- state.json ------------------------------------------------------------------------------------

    def read_state(self) -> Document | None:
        """What the node wrote; ``None`` when it wrote nothing.

        Raises:
            Damaged: ``NODE_STATE_READ_FAILED``, present and not readable as an object.
        """
        try:
            return _read_object(self.state_path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise Damaged(f"{self.state_path}: {error}", code="NODE_STATE_READ_FAILED") from error

    def state(self) -> tuple[Document | None, FileFacts]:
        """As :meth:`config`, for ``state.json``."""
        return _facts(self.state_path)

    # --- the directory ---------------------------------------------------------------------------------

    def make(self) -> None:
        """Make the directory (0700) and its parents.

        Raises:
            OSError: it cannot be made.
        """
        self.directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory.mkdir(exist_ok=True, mode=0o700)

    def remove(self) -> Removed | None:
        """Delete the directory, and its kind's when that is empty then; ``None`` when there was none.

        It leaves its place in one step, so that nobody finds half an instance.

        Raises:
            Unavailable: the medium refuses.
        """
        if not self.exists:
            return None
        doomed = self.directory.with_name(f"{_REMOVING}{uuid.uuid4().hex}")
        try:
            self.directory.rename(doomed)
            _remove_tree(doomed)
        except OSError as error:
            raise storage_error(error, str(self.directory)) from error
        emptied = False
        with suppress(OSError):  # another node of this kind lives there
            self.directory.parent.rmdir()
            emptied = True
        return Removed(self.directory, emptied)


def list_instances(paths: Paths) -> Iterator[Instance]:
    """All instances on disk, by kind and name; what does not look like one is passed over."""
    for name, _ in instance_places(paths):
        yield Instance(paths, name)


def instance_places(paths: Paths) -> Iterator[tuple[str, str]]:
    """As :func:`list_instances`, but only name and directory: for a thousand of them."""
    for kind in _directories(str(paths.nodes)):
        for entry in _directories(kind.path):
            # A place under which the node would not be found again is not an instance.
            if "@" in entry.name and entry.name.startswith((f"{kind.name}.", f"{kind.name}@")):
                yield entry.name, entry.path


def clean_instances(paths: Paths) -> int:
    """Remove what a kill in the middle of a creation or a removal left; how many went.

    Call it before anybody creates or removes: a draft that is being written looks the same.
    """
    removed = 0
    for kind in _directories(str(paths.nodes)):
        with suppress(OSError):
            for place in Path(kind.path).glob(f"{_REMOVING}*"):
                _remove_tree(place)
                removed += not place.exists()
        for entry in _directories(kind.path):
            with suppress(OSError):
                for draft in Path(entry.path).glob(f"{_DRAFT}*.tmp"):
                    draft.unlink()
                    removed += 1
                Path(entry.path).rmdir()  # made, and nothing written into it
        with suppress(OSError):
            Path(kind.path).rmdir()
    return removed


def _remove_tree(root: Path) -> None:
    try:
        shutil.rmtree(root)
    except RecursionError:  # a node made directories a thousand deep; the tool goes down without a stack
        done = subprocess.run(
            ["rm", "-rf", "--", str(root)], capture_output=True, timeout=_REMOVAL_S, check=False
        )
        if done.returncode != 0:
            raise OSError(errno.EIO, done.stderr.decode(errors="replace")[:200]) from None


def _directories(place: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            found = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda one: one.name)


def pretty_json(value: object) -> bytes:
    """``value`` as people read it in an editor."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def read_of_node(path: Path, limit_bytes: int = _LIMIT_BYTES) -> bytes:
    """A file in a node's directory, where anything may lie: a pipe must not hold us, nor a link lead us.

    Raises:
        OSError, ValueError: it cannot be read, is none, or is too large.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("not a regular file")
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError(f"larger than {limit_bytes} bytes")
    return data


def _read_object(path: Path) -> Document:
    data = read_of_node(path)
    try:
        return msgspec.json.decode(data, type=Document)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _facts(path: Path) -> tuple[Document | None, FileFacts]:
    try:
        changed_ms = path.stat().st_mtime_ns // 1_000_000
    except (FileNotFoundError, NotADirectoryError):
        return None, FileFacts()
    except OSError:
        return None, FileFacts(exists=True)
    try:
        return _read_object(path), FileFacts(True, True, changed_ms)
    except (OSError, ValueError):
        return None, FileFacts(True, False, changed_ms)


def _write_new(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
