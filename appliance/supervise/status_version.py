"""The counter that moves when a node's status changes (``spec/admin-api.md §D.6``).

It starts at 1, never goes back, and outlives a restart for nodes that have an instance directory; for others
it is kept in memory, so that asking for a status makes no directory. The fingerprint is a SHA-256 over
canonical JSON. A medium that refuses costs persistence, not the answer, and is counted.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import msgspec

from appliance.store.files import durable_replace
from appliance.wire.errors import FluxbeeError

from .instance import Instance, read_of_node

__all__ = ["StatusVersions", "fingerprint"]

_REMEMBERED = 4096
_LONGEST_BYTES = 128
_LARGEST = 2**53
"""More than any JSON reader takes; a node may write what it likes into its directory."""

_encoder = msgspec.json.Encoder(order="sorted")


def fingerprint(members: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of ``members``, in hex."""
    return hashlib.sha256(_encoder.encode(members)).hexdigest()


class StatusVersions:
    """Counters of one hive; ``failures`` counts what could not be stored.

    :meth:`version` touches the disk: one caller at a time, in a thread.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self.failures = 0

    def unchanged(self, name: str, members: Mapping[str, object]) -> int | None:
        """The counter of ``name`` when nothing changed since it was last asked; without touching the disk."""
        known = self._known.get(name)
        return known[0] if known is not None and known[1] == fingerprint(members) else None

    def version(self, instance: Instance, members: Mapping[str, object]) -> int:
        """The counter of ``instance`` after it was seen with ``members``."""
        mark = fingerprint(members)
        known = self._known.get(instance.name)
        stored = known if known is not None else _read(instance.directory)
        if stored is not None and stored[1] == mark:
            self._remember(instance.name, stored)
            return stored[0]
        fresh = (1 if stored is None else stored[0] + 1, mark)
        self._remember(instance.name, fresh)
        if instance.exists:
            self._write(instance.directory, fresh)
        return fresh[0]

    def forget(self, name: str) -> None:
        """The instance is gone: a new one starts at 1."""
        self._known.pop(name, None)

    def _remember(self, name: str, value: tuple[int, str]) -> None:
        self._known[name] = value
        self._known.move_to_end(name)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _write(self, directory: Path, value: tuple[int, str]) -> None:
        try:
            # The counter first: a crash between the two counts once too often, never back.
            durable_replace(directory / "status_version", f"{value[0]}\n".encode())
            durable_replace(directory / "status_fingerprint.sha256", f"{value[1]}\n".encode())
        except FluxbeeError:
            self.failures += 1


def _read(directory: Path) -> tuple[int, str] | None:
    try:
        version = int(read_of_node(directory / "status_version", _LONGEST_BYTES))
        if not 0 < version < _LARGEST:
            return None
    except (OSError, ValueError):
        return None
    try:
        mark = read_of_node(directory / "status_fingerprint.sha256", _LONGEST_BYTES).decode().strip()
    except (OSError, ValueError):
        mark = ""
    return version, mark
