"""All instances of the hive at a glance: what their files say, read again only when they changed.

A look at a thousand instances costs two ``stat`` calls each; a file is parsed when its time, size or inode is
another than before. Blocking: run it in a thread, one caller at a time.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from appliance.system.paths import Paths

from .instance import FileFacts, Instance, list_instances
from .node_config import SystemPart, system_part

__all__ = ["InstanceCatalog", "StoredNode"]

_Mark = tuple[int, int, int]


class StoredNode(msgspec.Struct, frozen=True, kw_only=True):
    """What the disk says of one node."""

    name: str
    instance: Instance
    config: FileFacts
    state: FileFacts
    system: SystemPart
    state_error: object = None


class InstanceCatalog:
    """The catalog of one hive."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._known: dict[str, tuple[_Mark | None, _Mark | None, StoredNode]] = {}

    def look(self) -> dict[str, StoredNode]:
        """All instances by name."""
        found: dict[str, tuple[_Mark | None, _Mark | None, StoredNode]] = {}
        for instance in list_instances(self._paths):
            marks = _mark(instance.config_path), _mark(instance.state_path)
            known = self._known.get(instance.name)
            stored = known[2] if known is not None and known[:2] == marks else _read(instance)
            found[instance.name] = (*marks, stored)
        self._known = found
        return {name: entry[2] for name, entry in found.items()}


def _mark(path: Path) -> _Mark | None:
    try:
        at = os.stat(path)
    except OSError:
        return None
    return at.st_mtime_ns, at.st_size, at.st_ino


def _read(instance: Instance) -> StoredNode:
    config, config_facts = instance.config()
    state, state_facts = instance.state()
    return StoredNode(
        name=instance.name,
        instance=instance,
        config=config_facts,
        state=state_facts,
        system=system_part(config),
        state_error=None if state is None else state.get("last_error"),
    )
