"""Regions ``router`` and ``node``: what the router's tables look like from outside, also after trouble."""

from __future__ import annotations

import msgspec
import pytest

from appliance.router.connection import Connection, Peer
from appliance.router.live_regions import LiveRegions
from appliance.router.outbox import Limits
from appliance.store.layouts import NODE, NODE_NAME, NODES, ROUTER, ROUTERS, NodeRow, RouterRow
from appliance.store.region import Environment
from appliance.store.region_admit import LIVE
from appliance.store.region_reader import RegionReader
from appliance.wire.errors import Unavailable
from tests.router_kit import HIVE, ROUTER_NAME, ROUTER_UUID, numbered_uuid

SPEC = msgspec.structs.replace(LIVE, map_bytes=4 << 20)
ROW = RouterRow(ROUTER_NAME, HIVE, True, 1_760_000_000_000)


@pytest.fixture
def environment(tmp_path):
    with Environment(SPEC, tmp_path, (ROUTERS, NODES)) as environment:
        yield environment


@pytest.fixture
def regions(environment):
    regions = LiveRegions(environment, ROUTER_UUID)
    regions.begin(ROW)
    return regions


def node(number, name=None, *, generation=None, at_ms=1_760_000_000_000):
    connection = Connection(generation or number, Peer(), Limits(), 0.0)
    connection.identify(numbered_uuid(number), name or f"AI.n{number}@{HIVE}")
    connection.connected_at_ms = at_ms
    return connection


def rows(environment):
    return dict(environment.items(NODE))


def names(environment):
    return [(name, uuid) for name, (_, uuid) in environment.items(NODE_NAME)]


def test_the_router_introduces_itself_and_both_regions_are_complete(environment, regions):
    assert environment.get(ROUTER, ROUTER_UUID) == ROW
    assert environment.ready("router")
    assert environment.ready("node")
    assert rows(environment) == {}


def test_a_node_comes_changes_its_zone_and_goes(environment, regions):
    one = node(1)
    regions.apply([("up", one)])
    assert rows(environment) == {one.uuid: NodeRow(one.name, ROUTER_UUID, 0, one.connected_at_ms, 1)}
    one.vpn = 7
    regions.apply([("vpn", one)])
    assert rows(environment)[one.uuid].vpn_id == 7
    assert names(environment) == [(one.name, one.uuid)]
    regions.apply([("down", one)])
    assert rows(environment) == {}
    assert names(environment) == []


def test_up_and_down_within_a_turn_leave_nothing(environment, regions):
    one = node(1)
    regions.apply([("up", one), ("vpn", one), ("down", one)])
    assert rows(environment) == {}
    assert names(environment) == []


def test_nodes_of_one_name_stand_in_the_order_of_their_connection(environment, regions):
    later, earlier = node(1, "AI.x@north", at_ms=2000), node(2, "AI.x@north", at_ms=1000)
    regions.apply([("up", later), ("up", earlier)])
    assert [uuid for _, uuid in names(environment)] == [earlier.uuid, later.uuid]


def test_the_end_of_an_older_connection_does_not_touch_the_newer_one_with_its_uuid(environment, regions):
    older, newer = node(1, generation=1), node(1, generation=2, at_ms=1_760_000_000_500)
    regions.apply([("up", older)])
    regions.apply([("down", older), ("up", newer)])
    assert rows(environment)[newer.uuid].link_epoch == 2
    regions.apply([("down", older)])
    assert rows(environment)[newer.uuid].link_epoch == 2
    assert names(environment) == [(newer.name, newer.uuid)]


def test_what_an_earlier_run_left_is_gone(environment, regions, tmp_path):
    regions.apply([("up", node(number)) for number in range(1, 4)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "close", lambda: None)
    LiveRegions(environment, numbered_uuid(99)).begin(ROW)
    assert rows(environment) == {}
    assert names(environment) == []
    assert [uuid for uuid, _ in environment.items(ROUTER)] == [numbered_uuid(99)]


def test_a_thousand_changes_go_in_slices_and_readers_see_every_generation_grow(environment, regions):
    before = environment.generation("node")
    regions.apply([("up", node(number)) for number in range(1, 1001)])
    with RegionReader(environment.path, (NODES,)) as reader:
        assert reader.count(NODE) == 1000
        assert reader.count(NODE_NAME) == 1000
    assert environment.generation("node") >= before + 10
    assert regions.statistics().writes == 1000


def refuse(environment):
    def begin(change):
        raise Unavailable("no space left")

    environment.begin = begin


def test_a_refused_write_is_counted_and_the_table_written_anew_from_the_truth(environment, regions):
    one, two, three = node(1), node(2), node(3)
    regions.apply([("up", one)])
    refuse(environment)
    regions.apply([("down", one), ("up", two)])
    assert regions.behind
    assert regions.statistics().failure == "no space left"
    assert regions.statistics().failures == 2
    regions.rewrite([two])
    assert regions.behind
    del environment.begin
    regions.apply([("up", three)])  # what works again in between does not hide what is missing
    assert regions.behind
    regions.rewrite([two, three])
    assert not regions.behind
    assert regions.statistics().failure is None
    assert set(rows(environment)) == {two.uuid, three.uuid}
    assert environment.ready("node")


def test_a_router_that_could_not_introduce_itself_does_so_later(environment):
    refuse(environment)
    regions = LiveRegions(environment, ROUTER_UUID)
    with pytest.raises(Unavailable):
        regions.begin(ROW)
    assert regions.behind
    del environment.begin
    regions.rewrite([node(1)])
    assert not regions.behind
    assert environment.get(ROUTER, ROUTER_UUID) == ROW
    assert environment.ready("router")
    assert len(rows(environment)) == 1


def test_a_full_map_costs_rows_and_no_exception(tmp_path):
    spec = msgspec.structs.replace(LIVE, map_bytes=1 << 20)
    with Environment(spec, tmp_path / "small", (ROUTERS, NODES)) as environment:
        regions = LiveRegions(environment, ROUTER_UUID)
        regions.begin(ROW)
        everybody = [node(number, f"AI.{'x' * 200}{number}@{HIVE}") for number in range(1, 4001)]
        regions.apply([("up", one) for one in everybody])
        assert regions.behind
        regions.rewrite(everybody[:50])
        assert not regions.behind
        assert len(rows(environment)) == 50
