"""Regions as a node may read them: published copies, never the live environments (``design.md §5``).

``open_published("control", [SPEC])`` reads ``<run>/published/control.mdb`` of this hive and notices a newer
copy by itself. Calls block for microseconds (a memory-mapped lookup). A module of its own, because most nodes
read no region and need no LMDB.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.store.published import PublishedRegion
from appliance.store.region_table import RegionSpec
from appliance.system.paths import Paths

__all__ = ["PublishedRegion", "RegionSpec", "open_published"]


def open_published(
    environment: str, regions: Sequence[RegionSpec] = (), *, paths: Paths | None = None
) -> PublishedRegion:
    """A reader of the published copy of ``environment`` (``live``, ``control``, ``memory``, ``world``).

    The copy need not exist yet. Errors and calls: :class:`appliance.store.published.PublishedRegion`.
    """
    places = paths or Paths.from_environment()
    return PublishedRegion(places.published / f"{environment}.mdb", tuple(regions))
