from __future__ import annotations

from pathlib import Path

import pytest

from appliance.store import region_open
from appliance.store.region import Environment
from appliance.store.region_open import Opened, check_specs
from appliance.store.region_table import RegionSpec
from appliance.wire.errors import Damaged, Misconfigured, NotFound, Unavailable
from tests.unit.store_regions import ALIAS, CONFIG, REGIONS, SYNCED


def test_declarations_that_fit() -> None:
    check_specs(REGIONS, None)
    check_specs((), None)


def test_a_table_that_two_regions_want() -> None:
    with pytest.raises(Misconfigured) as caught:
        check_specs((CONFIG, RegionSpec(name="opa", schema=1, tables=(ALIAS,))), None)
    assert "alias" in str(caught.value)


def test_rebuild_needed_is_any_region() -> None:
    opened = Opened(kept=True, reason="", set_aside=None, rebuild=frozenset())
    assert not opened.rebuild_needed
    assert Opened(kept=True, reason="", set_aside=None, rebuild=frozenset({"x"})).rebuild_needed


def test_what_only_lmdb_finds_is_set_aside_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        for region in REGIONS:
            env.finish_rebuild(region.name)
    real, calls = region_open._Declaration.declare, []

    def damaged_once(*args: object) -> object:
        calls.append(args)
        if len(calls) == 1:
            raise Damaged("mdb_get: MDB_CORRUPTED")
        return real(*args)

    monkeypatch.setattr(region_open._Declaration, "declare", damaged_once)
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        assert env.opened.reason == "damaged: mdb_get: MDB_CORRUPTED"
        assert env.opened.set_aside == tmp_path / "synced.damaged-1"
        assert env.opened.rebuild == {"config", "identity"}
        with env.change("config") as txn:
            ALIAS.put(txn, "a", b"")


def test_whatever_fails_gives_the_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, error in (
        ("admit", Unavailable("no")),
        ("_start", Unavailable("no")),
        ("_Declaration", Unavailable("no")),
        ("_Declaration", Damaged("twice")),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(region_open, name, fail)
            with pytest.raises((Unavailable, Damaged)):
                Environment(SYNCED, tmp_path, REGIONS)
        with Environment(SYNCED, tmp_path, REGIONS):
            pass


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((Unavailable, NotFound)):
        Environment(SYNCED, tmp_path / "file" / "below", REGIONS)
