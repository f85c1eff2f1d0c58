"""get_storage and set_storage: where managed things lie (``spec/admin-api.md §B.5``).

A new path is written into hive.yaml, with comments and unknown keys left alone, and counts for this process
from its next start; it is told at once, so that what was put is read back.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec
import trio

from appliance.settings.edit import with_value
from appliance.store.files import durable_replace, storage_error
from appliance.system.log import get_logger
from appliance.wire.errors import FluxbeeError, Invalid, NotFound, Unavailable

from .asked import text
from .house import Handler, House, Payload, Request

__all__ = ["StoragePayload", "StorageVerbs"]

_KEY: Final = "storage.path"
_MAX_PATH_CHARS: Final = 1024
_MAX_FILE_BYTES: Final = 1 << 20
_NEW_FILE_MODE: Final = 0o640

log = get_logger("orchestrator")


class StoragePayload(msgspec.Struct, frozen=True, kw_only=True):
    """``GET`` and ``PUT /config/storage``."""

    status: Literal["ok"] = "ok"
    path: str


class StorageVerbs:
    """Handlers of both actions.

    Args:
        house: what all verbs share.
        path: ``storage.path`` in force.
        file: the hive.yaml that this hive was started with.
    """

    def __init__(self, house: House, path: Path, file: Path) -> None:
        self._house = house
        self._path = str(path)
        self._file = file
        self.handlers: Mapping[str, Handler] = {
            "get_storage": self.get_storage,
            "set_storage": self.set_storage,
        }

    async def get_storage(self, request: Request, source: str) -> Payload:
        """The path, as it was last set."""
        return dict(msgspec.to_builtins(StoragePayload(path=self._path)))

    async def set_storage(self, request: Request, source: str) -> Payload:
        """Write the path into hive.yaml."""
        path = text(request, "path")
        if path is None or not path.strip():
            raise Invalid("missing path", field="path")
        path = path.strip()
        if not path.startswith("/") or not path.isprintable() or len(path) > _MAX_PATH_CHARS:
            raise Invalid(
                f"path: {path[:80]!r} is no absolute path", field="path", remedy="Use a path such as /data."
            )
        try:
            await trio.to_thread.run_sync(self._persist, path, limiter=self._house.files)
        except FluxbeeError as error:
            raise Unavailable(error.message, code="PERSIST_FAILED", remedy=error.remedy) from error
        self._path = path
        log.info("storage_path_set", path=path, by=source)
        return dict(msgspec.to_builtins(StoragePayload(path=path)))

    def _persist(self, path: str) -> None:
        file = self._file.resolve()  # a link stays one; what it points to is replaced
        try:
            content, mode = _read(file)
            changed = with_value(content, _KEY, path)
            if changed == content:
                return
            file.parent.mkdir(parents=True, exist_ok=True)
        except UnicodeDecodeError:
            raise Unavailable(f"{file} is not UTF-8") from None
        except OSError as error:
            raise storage_error(error, str(file)) from error
        durable_replace(file, changed.encode(), mode)


def _read(file: Path) -> tuple[str, int]:
    """Text and permission bits; an absent file is empty."""
    try:
        with file.open("rb") as source:
            data = source.read(_MAX_FILE_BYTES + 1)
        mode = stat.S_IMODE(file.stat().st_mode)
    except FileNotFoundError:
        return "", _NEW_FILE_MODE
    if len(data) > _MAX_FILE_BYTES:
        raise NotFound(f"{file} is larger than {_MAX_FILE_BYTES} bytes")
    return data.decode(), mode
