"""The hives that this motherbee knows: ``<lib>/hives/<id>/info.yaml`` (``spec/admin-api.md §D.12``).

One key per line, because operators' scripts grep ``^address: …``. A directory whose record does not read is
listed by its name alone. Ids are checked before a path is made of them. Blocking calls on small files.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
from pathlib import Path
from typing import Final, Literal

import msgspec
import yaml

from appliance.store.files import durable_replace, storage_error
from appliance.wire.errors import Invalid, NotFound, Unavailable

__all__ = [
    "RESERVED_HIVE",
    "HiveRecord",
    "HiveRegistry",
    "check_address",
    "check_worker_id",
    "is_hive_id",
]

RESERVED_HIVE: Final = "motherbee"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)\Z")
_FILE: Final = "info.yaml"
_MAX_BYTES: Final = 64 << 10


class HiveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One registered hive; ``created_at`` is wall-clock ms as text."""

    hive_id: str
    address: str
    created_at: str
    status: Literal["pending", "connected"]
    syncthing_peer_linked: bool = False
    syncthing_device_id: str | msgspec.UnsetType = msgspec.UNSET


def is_hive_id(text: object) -> bool:
    """Whether ``text`` fits ``[A-Za-z0-9_-]{1,64}``."""
    return isinstance(text, str) and _ID.match(text) is not None


def check_worker_id(text: str) -> str:
    """``text`` when a hive may be added under it.

    Raises:
        Invalid: ``INVALID_HIVE_ID``; characters, length, or the motherbee's own name.
    """
    if not is_hive_id(text) or text == RESERVED_HIVE:
        raise Invalid(
            f"{text[:80]!r} is no id for a worker hive",
            code="INVALID_HIVE_ID",
            field="hive_id",
            remedy="Use 1 to 64 letters, digits, '_' or '-'.",
        )
    return text


def check_address(text: str) -> str:
    """``text`` when it is an IPv4 or IPv6 address or a host name.

    Raises:
        Invalid: ``INVALID_ADDRESS``.
    """
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        digits_last = labels[-1].isdigit()  # 10.0.0.256 is a mistyped address and no name
        if len(text) > 253 or digits_last or not all(_LABEL.match(label) for label in labels):
            raise Invalid(
                f"{text[:80]!r} is neither an IP address nor a host name",
                code="INVALID_ADDRESS",
                field="address",
            ) from None
    return text


class HiveRegistry:
    """The records below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, hive: str) -> Path:
        if not is_hive_id(hive):
            raise Invalid(f"{hive[:80]!r} is no hive id", code="INVALID_HIVE_ID", field="hive_id")
        return self._directory / hive

    def ids(self) -> list[str]:
        """Ids of all records, sorted, those that do not read included."""
        try:
            return sorted(
                path.name for path in self._directory.iterdir() if is_hive_id(path.name) and path.is_dir()
            )
        except OSError:
            return []

    def has(self, hive: str) -> bool:
        """Whether there is a record; False for what is no id."""
        return is_hive_id(hive) and (self._path(hive) / _FILE).exists()

    def find(self, hive: str) -> HiveRecord:
        """One record.

        Raises:
            Invalid: ``INVALID_HIVE_ID``.
            NotFound: there is none.
            Unavailable: ``IO_ERROR``; it does not read.
        """
        path = self._path(hive) / _FILE
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES)
            return msgspec.convert(yaml.safe_load(data), HiveRecord, strict=False)
        except FileNotFoundError:
            raise NotFound(f"no hive {hive} is registered", field="hive_id") from None
        except (OSError, yaml.YAMLError, msgspec.ValidationError, RecursionError) as error:
            raise Unavailable(f"{path} does not read: {error}", code="IO_ERROR") from error

    def write(self, record: HiveRecord) -> None:
        """Write a record, a new one or instead of an old one.

        Raises:
            Unavailable: ``IO_ERROR``; the medium refuses.
        """
        path = self._path(record.hive_id)
        text = yaml.safe_dump(msgspec.to_builtins(record), sort_keys=False, default_flow_style=False)
        try:
            path.mkdir(parents=True, exist_ok=True)
            durable_replace(path / _FILE, text.encode(), 0o644)
        except (OSError, Unavailable, NotFound) as error:
            raise Unavailable(f"{path}: {error}", code="IO_ERROR") from error

    def remove(self, hive: str) -> None:
        """Remove a record with its directory; one that is not there is fine.

        Raises:
            Unavailable: ``IO_ERROR``.
        """
        path = self._path(hive)
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            return
        except OSError as error:
            told = storage_error(error, str(path))
            raise Unavailable(told.message, code="IO_ERROR", remedy=told.remedy) from error
