"""Environment `control`, shared: one opening, one owner per region, trouble of one is no loss of others."""

from __future__ import annotations

import msgspec
import pytest
import trio

from appliance.services.control_regions import ControlRegions
from appliance.store.generations import SLOTS, GenerationPage
from appliance.store.layouts import CFG_META, CONFIG, IDENTITY, TENANT, THREADS, ConfigMeta
from appliance.store.published import PublishedRegion
from appliance.store.region import Environment
from appliance.store.region_admit import CONTROL
from appliance.system.paths import Paths
from appliance.wire.errors import Conflict, FluxbeeError, Unavailable
from appliance.wire.identity import TenantRecord

SPEC = msgspec.structs.replace(CONTROL, map_bytes=4 << 20)
KEY = "00000000-0000-4000-8000-000000000001"
ACME = TenantRecord(tenant_id=f"tnt:{KEY}", name="Acme")


@pytest.fixture
def paths(tmp_path):
    return Paths(tmp_path)


@pytest.fixture
def page(paths):
    page = GenerationPage.create(paths.generations)
    yield page
    page.close()


@pytest.fixture
def shared(paths, page):
    with ControlRegions(SPEC, paths.regions_disk, page, paths.published) as shared:
        yield shared


def fill(region, environment, put):
    environment.reset(region.name)
    with environment.change(region.name) as txn:
        put(txn)
    environment.finish_rebuild(region.name, applied_seq=1)


def fill_config(region):
    with region.use() as environment:
        fill(region, environment, lambda txn: CFG_META.put(txn, "v", ConfigMeta(1, 0, "h")))


def fill_identity(region):
    with region.use() as environment:
        fill(region, environment, lambda txn: TENANT.put(txn, KEY, ACME))


def test_regions_share_one_environment_and_keep_their_own_generation(shared, page):
    config, identity = shared.region(CONFIG), shared.region(IDENTITY)
    fill_config(config)
    before = page.get(SLOTS["config"])
    fill_identity(identity)
    assert page.get(SLOTS["config"]) == before
    with config.use() as one, identity.use() as two:
        assert one is two
        assert one.get(TENANT, KEY) == ACME


def test_a_region_has_one_owner_and_belongs_here(shared):
    shared.region(CONFIG)
    with pytest.raises(ValueError, match="owner"):
        shared.region(CONFIG)
    with pytest.raises(ValueError, match="thread"):
        shared.region(THREADS)


def test_an_empty_region_is_told_to_its_owner_when_the_environment_opens(shared):
    told = []
    config, identity = shared.region(CONFIG), shared.region(IDENTITY, lambda: told.append("identity"))
    fill_config(config)
    assert told == ["identity"]
    assert identity.failure
    fill_identity(identity)
    assert identity.failure is None


def test_trouble_of_one_region_closes_the_environment_and_the_other_goes_on(shared):
    config, identity = shared.region(CONFIG), shared.region(IDENTITY)
    fill_config(config)
    fill_identity(identity)
    with pytest.raises(Unavailable), config.use() as first:
        raise Unavailable("the medium", code="STORAGE_FULL")
    assert (config.failure, identity.failure) == ("the medium", None)
    with identity.use() as second:
        assert second is not first
        assert second.get(TENANT, KEY) == ACME
    assert config.failure == "the medium"
    with config.use() as again:
        assert again is second
    assert config.failure is None


def test_a_late_failure_does_not_close_what_was_opened_since(shared):
    config, identity = shared.region(CONFIG), shared.region(IDENTITY)
    with pytest.raises(Unavailable), config.use():
        shared.close()
        with identity.use() as newer:
            pass
        raise Unavailable("of the older one")
    with identity.use() as environment:
        assert environment is newer


def test_a_lost_file_is_told_to_every_owner(shared, paths):
    told = []
    config = shared.region(CONFIG, lambda: told.append("config"))
    identity = shared.region(IDENTITY, lambda: told.append("identity"))
    fill_config(config)
    fill_identity(identity)
    told.clear()
    shared.close()
    (paths.regions_disk / "control.mdb").write_bytes(b"garbage" * 5000)
    with config.use() as environment:
        assert environment.opened.set_aside is not None
    assert told == ["config", "identity"]
    assert identity.failure


def test_what_another_process_writes_is_a_conflict(shared, paths):
    config = shared.region(CONFIG)
    with Environment(SPEC, paths.regions_disk, (CONFIG,)), pytest.raises(Conflict), config.use():
        raise AssertionError("not reached")
    assert config.failure


def test_figures_need_an_open_environment_and_maintenance_does_not(shared):
    region = shared.region(CONFIG)
    shared.maintain()
    with pytest.raises(Unavailable):
        shared.statistics()
    fill_config(region)
    shared.maintain()
    assert shared.statistics().name == "control"


def test_the_copy_follows_every_region(shared, paths):
    async def published(copy, table, key):
        while True:
            try:
                if (row := copy.get(table, key)) is not None:
                    return row
            except FluxbeeError:
                pass
            await trio.sleep(0.02)

    async def body():
        config, identity = shared.region(CONFIG), shared.region(IDENTITY)
        with (
            trio.fail_after(10),
            PublishedRegion(paths.published / "control.mdb", (CONFIG, IDENTITY)) as copy,
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(shared.publish)
                nursery.start_soon(shared.upkeep)
                fill_config(config)
                assert (await published(copy, CFG_META, "v")).hive_id == "h"
                fill_identity(identity)
                assert await published(copy, TENANT, KEY) == ACME
                assert shared.publisher_statistics().copies >= 1
                nursery.cancel_scope.cancel()

    trio.run(body)
