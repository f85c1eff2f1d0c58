"""All instances of the hive at a glance: what their files say, read again only when they changed.

A look at a thousand instances costs two ``stat`` calls each; a file is parsed when its time, size or inode is
another than before. Blocking: run it in a thread, one caller at a time.
"""

from __future__ import annotations

import os

import msgspec

from appliance.system.paths import Paths

from .instance import CONFIG_FILE, STATE_FILE, FileFacts, Instance, instance_places
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
        for name, place in instance_places(self._paths):
            config, state = _mark(f"{place}/{CONFIG_FILE}"), _mark(f"{place}/{STATE_FILE}")
            known = self._known.get(name)
            if known is None or known[0] != config or known[1] != state:
                known = (config, state, _read(Instance(self._paths, name)))
            found[name] = known
        self._known = found
        return {name: entry[2] for name, entry in found.items()}


def _mark(path: str) -> _Mark | None:
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
