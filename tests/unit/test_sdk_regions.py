from __future__ import annotations

from pathlib import Path

import pytest

from appliance.sdk.regions import open_published
from appliance.store.layouts import CFG_META, CONFIG, ConfigMeta
from appliance.store.published import Publisher
from appliance.store.region import Environment
from appliance.store.region_admit import EnvironmentSpec
from appliance.system.paths import Paths
from appliance.wire.errors import FluxbeeError

SPEC = EnvironmentSpec(name="control", on_disk=False, sync=False, map_bytes=1 << 20)


def test_a_node_reads_the_published_copy_and_notices_the_next(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    directory = tmp_path / "owner"
    directory.mkdir()
    with Environment(SPEC, directory, (CONFIG,)) as owner:
        publisher = Publisher(owner, paths.published / "control.mdb")
        reader = open_published("control", [CONFIG], paths=paths)
        with pytest.raises(FluxbeeError):  # nothing is published yet, and that is said
            reader.get(CFG_META, "v")
        for version in (1, 2):
            meta = ConfigMeta(doc_version=version, updated_at_ms=5, hive_id="hive1")
            with owner.change("config") as txn:
                CFG_META.put(txn, "v", meta)
            publisher.publish()
            assert reader.get(CFG_META, "v") == meta
        reader.close()


def test_the_hive_is_found_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))
    with pytest.raises(FluxbeeError, match=str(tmp_path / "run/published/live.mdb")):
        open_published("live").get(CFG_META, "v")
