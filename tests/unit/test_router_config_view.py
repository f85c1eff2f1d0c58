"""The router's look at the route configuration that another plane writes, replaces, loses or damages."""

from __future__ import annotations

import msgspec
import pytest

from appliance.router.config_view import ConfigView
from appliance.store.generations import SLOTS, GenerationPage
from appliance.store.layouts import CFG_META, CFG_ROUTE, CFG_VPN, CONFIG, ConfigMeta
from appliance.store.region import Environment
from appliance.store.region_admit import CONTROL
from appliance.wire.routes import Route, RouteAction, VpnRule

SPEC = msgspec.structs.replace(CONTROL, map_bytes=4 << 20)
META = ConfigMeta(3, 1_760_000_000_000, "north")
ROUTES = (
    Route(prefix="AI.b", action=RouteAction.DROP),
    Route(prefix="AI.a", action=RouteAction.FORWARD, next_hop_hive="south"),
)
VPNS = (VpnRule(pattern="AI.*", vpn_id=7),)


@pytest.fixture
def page(tmp_path):
    page = GenerationPage.create(tmp_path / "generations")
    yield page
    page.close()


@pytest.fixture
def view(tmp_path, page):
    view = ConfigView(tmp_path / "control.mdb", page)
    yield view
    view.close()


def write(environment, *, meta=META, routes=ROUTES, vpns=VPNS, complete=True):
    with environment.change("config") as txn:
        for table in (CFG_META, CFG_ROUTE, CFG_VPN):
            table.clear(txn)
        if meta is not None:
            CFG_META.put(txn, "v", meta)
        for index, route in enumerate(routes):
            CFG_ROUTE.put(txn, index, route)
        for index, rule in enumerate(vpns):
            CFG_VPN.put(txn, index, rule)
    if complete and not environment.ready("config"):
        environment.finish_rebuild("config")


def test_before_anything_was_written_there_is_nothing_and_a_reason(view):
    assert view.changed
    assert view.read() is None
    assert view.failure is not None
    assert not view.changed


def test_one_consistent_version_in_the_order_of_the_document(tmp_path, page, view):
    with Environment(SPEC, tmp_path, (CONFIG,), page=page) as environment:
        write(environment)
        tables = view.read()
    assert tables.meta == META
    assert tables.routes == ROUTES
    assert tables.vpns == VPNS
    assert view.failure is None


def test_a_change_is_seen_by_its_generation_and_only_once(tmp_path, page, view):
    with Environment(SPEC, tmp_path, (CONFIG,), page=page) as environment:
        write(environment)
        view.read()
        assert not view.changed
        write(environment, meta=ConfigMeta(4, 0, "north"), routes=())
        assert view.changed
        assert view.read().routes == ()
        assert not view.changed


def test_a_region_that_is_being_rebuilt_is_not_read(tmp_path, page, view):
    with Environment(SPEC, tmp_path, (CONFIG,), page=page) as environment:
        write(environment, complete=False)
        assert view.read() is None
        environment.finish_rebuild("config")
        assert view.changed
        assert view.read() is not None
        environment.reset("config")
        assert view.read() is None
        assert "no configuration" in view.failure


def test_a_region_without_header_is_no_version(tmp_path, page, view):
    with Environment(SPEC, tmp_path, (CONFIG,), page=page) as environment:
        write(environment, meta=None)
        assert view.read() is None
        assert "header" in view.failure


def test_a_file_that_was_replaced_is_opened_anew(tmp_path, page, view):
    with Environment(SPEC, tmp_path, (CONFIG,), page=page) as environment:
        write(environment)
        assert view.read() is not None
    for path in tmp_path.glob("control*"):
        path.unlink()
    with Environment(SPEC, tmp_path, (CONFIG,), page=page) as environment:
        assert view.changed  # the owner never lets a generation go back
        assert view.read() is None
        write(environment, meta=ConfigMeta(9, 0, "north"))
        assert view.changed
        assert view.read().meta.doc_version == 9


@pytest.mark.parametrize("garbage", [b"", b"garbage", bytes(8192), b"\xff" * 100_000])
def test_garbage_is_a_counted_failure(tmp_path, view, garbage):
    (tmp_path / "control.mdb").write_bytes(garbage)
    assert view.read() is None
    assert view.failures == 1
    assert view.failure


def test_a_row_that_does_not_decode_is_a_failure(tmp_path, page, view):
    with Environment(SPEC, tmp_path, (CONFIG,), page=page) as environment:
        write(environment)
        with environment.change("config") as txn:
            txn.raw.put((0).to_bytes(8, "big"), b"\xff\xff", db=txn.dbs["cfg_route"])
        assert view.read() is None
        assert "does not decode" in view.failure


def test_what_failed_may_be_looked_at_again(tmp_path, page, view):
    (tmp_path / "control.mdb").write_bytes(b"garbage")
    view.read()
    assert not view.changed
    view.look_again()
    assert view.changed


def test_the_check_is_one_look_at_the_page(page, view):
    view.read()
    page.announce(SLOTS["config"], 1)
    assert view.changed
    view.read()
    page.announce(SLOTS["node"], 1)
    assert not view.changed


def test_a_closed_view_fails_and_does_not_raise(view):
    view.close()
    assert view.read() is None
    assert "closed" in view.failure
