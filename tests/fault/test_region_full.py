"""Full file systems: errors, never signals; readers and urgent work go on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.store.generations import SLOTS, GenerationPage
from appliance.store.published import PublishedRegion, Publisher
from appliance.store.region import Environment
from appliance.store.region_admit import EnvironmentSpec
from appliance.store.region_reader import RegionReader
from appliance.wire.errors import FluxbeeError, Unavailable
from tests.fault.region_kit import Child, Hear, Say
from tests.unit.store_regions import ALIAS, MIB, REGIONS

pytestmark = [pytest.mark.privileged, pytest.mark.process]

SPEC = EnvironmentSpec(name="live", on_disk=False, sync=False, map_bytes=64 * MIB)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "tmpfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take every free block."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def test_a_change_that_does_not_fit_fails_and_the_rest_goes_on(tmpfs: Path) -> None:
    page = GenerationPage.create(tmpfs / "generations")
    with Environment(SPEC, tmpfs, REGIONS, page=page) as env, RegionReader(env.path, REGIONS) as reader:
        number = 0
        with pytest.raises(Unavailable) as caught:
            while True:
                with env.change("config", applied_seq=number + 1) as txn:
                    ALIAS.put(txn, f"{number:04}", bytes(10_000))
                number += 1
        assert caught.value.code == "STORAGE_FULL"
        assert env.count(ALIAS) == reader.count(ALIAS) == number
        assert env.applied_seq("config") == number
        assert page.get(SLOTS["config"]) == env.generation("config")
        assert env.statistics().commit_errors == 1
        with env.change("config") as txn:  # pages that earlier changes gave back suffice for a small one
            ALIAS.delete(txn, "0000")
        for _ in range(3):  # LMDB reuses the pages of a commit after the next two
            with env.change("config") as txn:
                ALIAS.put(txn, "small", b"")
        with env.change("config") as txn:
            ALIAS.put(txn, "again", bytes(5_000))
        assert reader.count(ALIAS) == number + 1


def test_opening_on_a_full_file_system_is_an_error_and_not_a_signal(tmpfs: Path) -> None:
    fill(tmpfs)

    def try_everything(say: Say, hear: Hear) -> None:
        codes = []
        for attempt in (
            lambda: Environment(SPEC, tmpfs, REGIONS),
            lambda: GenerationPage.create(tmpfs / "generations"),
        ):
            try:
                attempt()
            except FluxbeeError as error:
                codes.append(error.code)
        say(" ".join(codes))

    child = Child(try_everything)
    assert child.hears() == "STORAGE_FULL STORAGE_FULL"
    assert child.end() == 0


def test_an_environment_opens_again_on_a_full_file_system(tmpfs: Path) -> None:
    with Environment(SPEC, tmpfs, REGIONS) as env:
        with env.change("config") as txn:
            ALIAS.put(txn, "a", b"1")
        for region in REGIONS:
            env.finish_rebuild(region.name)
    fill(tmpfs)

    def open_again(say: Say, hear: Hear) -> None:
        env = Environment(SPEC, tmpfs, REGIONS)
        say(f"{env.opened.kept} {env.get(ALIAS, 'a')!r} {env.statistics().mark_errors}")
        hear()

    child = Child(open_again)
    assert child.hears() == "True b'1' 1"
    child.kill()
    # It could not be marked as open; so the mark of the earlier clean stop must not be there any more.
    with Environment(SPEC, tmpfs, REGIONS) as env:
        assert not env.opened.kept


def test_a_copy_that_does_not_fit_leaves_the_last_one(tmpfs: Path, tmp_path: Path) -> None:
    with Environment(SPEC, tmp_path / "regions", REGIONS) as env:
        publisher = Publisher(env, tmpfs / "live.mdb")
        with env.change("config") as txn:
            ALIAS.put(txn, "a", b"1")
        publisher.publish()
        with env.change("config") as txn:
            ALIAS.put(txn, "big", bytes(2 * MIB))
        with pytest.raises(Unavailable) as caught:
            publisher.publish()
        assert caught.value.code == "STORAGE_FULL"
        assert os.listdir(tmpfs) == ["live.mdb"]
        with PublishedRegion(tmpfs / "live.mdb", REGIONS) as region:
            assert region.get(ALIAS, "a") == b"1"
