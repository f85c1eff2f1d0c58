"""SY.config.routes with journal, region and file: what is answered is there, whatever fails in between."""

from __future__ import annotations

import errno
import os
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from appliance.router.config_view import ConfigView
from appliance.services.config_routes import RouteLimits, RouteService
from appliance.services.config_routes import service as service_module
from appliance.services.config_routes.book import RouteBook
from appliance.services.config_routes.document import read_document, write_document
from appliance.services.control_regions import ControlRegions
from appliance.store.generations import GenerationPage
from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.store.layouts import CFG_META, CFG_ROUTE, CONFIG
from appliance.store.region import Environment
from appliance.store.region_admit import CONTROL
from appliance.system.paths import Paths
from appliance.wire.envelope import Meta, build_message
from appliance.wire.errors import Busy, Conflict, Damaged, FluxbeeError, Unavailable
from tests.services_kit import ServiceNode
from tests.trio_kit import on_trio

HIVE = "north"
SPEC = msgspec.structs.replace(CONTROL, map_bytes=4 << 20)
ROUTE = {"prefix": "AI.a", "action": "DROP"}


@pytest.fixture
def paths(tmp_path):
    return Paths(tmp_path)


@pytest.fixture
def page(paths):
    page = GenerationPage.create(paths.generations)
    yield page
    page.close()


class Node(ServiceNode):
    """The service's connection."""

    def put(self, payload, *, src="asker", **meta):
        message = build_message(src=src, dst="SY.config.routes", payload=payload, meta=Meta(**meta))
        message.routing.src_l2_name = "SY.admin@north"
        self.questions.send_nowait(message)

    async def ask(self, payload, **meta):
        self.put(payload, **meta)
        return (await self.answered.receive()).json()

    async def admin(self, action, payload):
        return await self.ask(payload, type="admin", action=action)


class Running:
    """A service that is served, with its node."""

    def __init__(self, service, node, paths, page):
        self.service = service
        self.node = node
        self.journal = service._journal
        self._paths = paths
        self._page = page

    def shown(self):
        """What the router would read."""
        view = ConfigView(self._paths.regions_disk / "control.mdb", self._page)
        try:
            return view.read()
        finally:
            view.close()

    def committer_fails(self, error=errno.ENOSPC):
        committer = self.journal._engine.committer
        committer._fail(OSError(error, os.strerror(error)), self.journal._engine.now())


def service_of(paths, regions):
    return RouteService(HIVE, paths, limits=RouteLimits(256, 256), admin_nodes=(), regions=regions)


def regions_of(paths, page):
    return ControlRegions(SPEC, paths.regions_disk, page, paths.published)


@asynccontextmanager
async def running(paths, page):
    with regions_of(paths, page) as regions:
        async with served(service_of(paths, regions)) as (service, node):
            yield Running(service, node, paths, page)


@asynccontextmanager
async def served(service):
    async with service.opened(), trio.open_nursery() as nursery:
        node = Node()
        nursery.start_soon(service.serve, node)
        nursery.start_soon(service.upkeep)
        yield service, node
        nursery.cancel_scope.cancel()


def prefixes(tables):
    return [route.prefix for route in tables.routes]


async def stored(paths):
    """Versions in the journal."""
    spec = JournalSpec(name="config.routes", kind="state", durability="durable")
    async with await Journal.opened(paths.journals / "config.routes", spec) as journal:
        assert not journal.damages
        batch = await journal.read(1)
        return [msgspec.json.decode(record)["version"] for record in batch.records]


@on_trio
async def test_a_new_hive_has_version_1_in_journal_region_and_file(paths, page):
    async with running(paths, page) as run:
        assert (run.shown().meta.doc_version, run.shown().meta.hive_id) == (1, HIVE)
        assert read_document(paths.routes_yaml).version == 1
    assert await stored(paths) == [1]


@on_trio
async def test_when_a_change_is_answered_journal_region_and_file_have_it(paths, page):
    async with running(paths, page) as run:
        answer = await run.node.admin("add_route", ROUTE)
        assert answer["payload"]["config_version"] == 2
        assert prefixes(run.shown()) == ["AI.a"]
        assert run.shown().meta.doc_version == 2
        assert [route.prefix for route in read_document(paths.routes_yaml).routes] == ["AI.a"]
        assert run.journal.durable_seq == 2
    assert await stored(paths) == [1, 2]


@on_trio
async def test_a_restart_finds_what_was_answered_and_goes_on_from_there(paths, page):
    async with running(paths, page) as run:
        for number in range(5):
            await run.node.admin("add_route", {**ROUTE, "prefix": f"AI.{number}"})
    async with running(paths, page) as run:
        assert run.service.book.version == 6
        assert (await run.node.admin("delete_route", {"prefix": "AI.0"}))["payload"]["config_version"] == 7
        assert len((await run.node.admin("list_routes", {}))["payload"]["routes"]) == 4


@on_trio
async def test_messages_that_ask_for_nothing_write_nothing(paths, page):
    async with running(paths, page) as run:
        before = run.journal.last_seq
        await run.node.admin("list_routes", {})
        await run.node.admin("add_route", {})
        await run.node.admin("delete_route", {"prefix": "AI.no"})
        config = {"subsystem": "routes", "version": 9, "config": []}
        assert (await run.node.ask(config, type="system", msg="CONFIG_CHANGED"))["status"] == "ok"
        assert run.journal.last_seq == before


@on_trio
async def test_a_base_image_lets_the_journal_stay_small(paths, page, monkeypatch):
    monkeypatch.setattr(service_module, "_BASE_EVERY", 4)
    async with running(paths, page) as run:
        for number in range(9):
            await run.node.admin("add_route", {**ROUTE, "prefix": f"AI.{number}"})
        assert run.journal.base.upto_seq == 8
    async with running(paths, page) as run:
        assert len(run.service.book.routes) == 9


@on_trio
async def test_a_base_image_that_fails_is_no_failed_change(paths, page, monkeypatch):
    monkeypatch.setattr(service_module, "_BASE_EVERY", 1)
    async with running(paths, page) as run:

        async def refuse(upto, records):
            raise Unavailable("no space")

        run.journal.write_base = refuse
        assert (await run.node.admin("add_route", ROUTE))["status"] == "ok"


# --- the operator's file -----------------------------------------------------------------------------


@on_trio
async def test_a_hive_may_begin_with_an_operator_s_file(paths, page):
    paths.etc.mkdir()
    paths.routes_yaml.write_text("version: 7\nroutes: [{prefix: AI.op, action: DROP}]\n")
    async with running(paths, page) as run:
        assert run.service.book.version == 7
        assert prefixes(run.shown()) == ["AI.op"]


@pytest.mark.parametrize(("version", "result"), [(2, 3), (3, 3), (50, 50)])
@on_trio
async def test_an_edit_by_hand_is_taken_over_at_the_next_start(paths, page, version, result):
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
    paths.routes_yaml.write_text(f"version: {version}\nroutes: [{{prefix: AI.op, action: DROP}}]\n")
    async with running(paths, page) as run:
        assert run.service.book.version == result
        assert prefixes(run.shown()) == ["AI.op"]
    assert read_document(paths.routes_yaml).version == result


@on_trio
async def test_an_outdated_file_is_written_anew(paths, page):
    """As after a crash between journal and file."""
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
    write_document(paths.routes_yaml, RouteBook(version=1))
    async with running(paths, page) as run:
        assert run.service.book.version == 2
        assert prefixes(run.shown()) == ["AI.a"]
    assert read_document(paths.routes_yaml).version == 2


@on_trio
async def test_a_removed_file_is_written_anew(paths, page):
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
    paths.routes_yaml.unlink()
    async with running(paths, page):
        assert read_document(paths.routes_yaml).version == 2


@pytest.mark.parametrize("garbage", [b"version: [", b"\xff\xfe", b"", b"[" * 3000, b"a: !!int ''"])
@on_trio
async def test_a_file_that_cannot_be_read_stays_as_it_is_and_the_journal_is_in_force(paths, page, garbage):
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
    paths.routes_yaml.write_bytes(garbage)
    async with running(paths, page) as run:
        assert prefixes(run.shown()) == ["AI.a"]
        assert (await run.node.admin("add_route", {**ROUTE, "prefix": "AI.b"}))["status"] == "ok"
        assert paths.routes_yaml.read_bytes() == garbage
        paths.routes_yaml.unlink()  # the remedy
        assert (await run.node.admin("add_route", {**ROUTE, "prefix": "AI.c"}))["status"] == "ok"
        assert len(read_document(paths.routes_yaml).routes) == 3


@on_trio
async def test_a_file_that_cannot_be_written_costs_only_the_file(paths, page):
    async with running(paths, page) as run:
        paths.routes_yaml.unlink()
        paths.etc.rmdir()
        paths.etc.write_text("in the way")
        assert (await run.node.admin("add_route", ROUTE))["status"] == "ok"
        assert prefixes(run.shown()) == ["AI.a"]


# --- when storing fails --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
@on_trio
async def test_what_the_journal_refuses_is_refused_and_nothing_moves(paths, page, error):
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
        run.committer_fails(error)
        for action, payload in (
            ("add_route", {**ROUTE, "prefix": "AI.b"}),
            ("delete_route", {"prefix": "AI.a"}),
        ):
            answer = await run.node.admin(action, payload)
            assert answer["error_code"] == "PERSIST_FAILED"
            assert os.strerror(error) in answer["error_detail"]
        listed = (await run.node.admin("list_routes", {}))["payload"]
        assert listed["config_version"] == 2
        assert [route["prefix"] for route in listed["routes"]] == ["AI.a"]
        assert prefixes(run.shown()) == ["AI.a"]
        assert [state.failure is not None for state in run.service.journals()] == [True]
        await run.journal.resume()
        assert (await run.node.admin("add_route", {**ROUTE, "prefix": "AI.b"}))["payload"][
            "config_version"
        ] == 3
        assert [state.failure for state in run.service.journals()] == [None]
    async with running(paths, page) as run:
        assert prefixes(run.shown()) == ["AI.a", "AI.b"]


def refuse_region(monkeypatch):
    """The region takes no change until the returned function is called."""

    def begin(self, change):
        raise Unavailable("no space in the region", code="STORAGE_FULL")

    original = Environment.begin
    monkeypatch.setattr(Environment, "begin", begin)
    return lambda: monkeypatch.setattr(Environment, "begin", original)


@on_trio
async def test_what_only_the_region_refuses_is_stored_and_takes_effect_later(paths, page, monkeypatch):
    monkeypatch.setattr(service_module, "_RETRY_S", 0.02)
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
        accept = refuse_region(monkeypatch)
        answer = await run.node.admin("add_route", {**ROUTE, "prefix": "AI.b"})
        assert answer["error_code"] == "APPLY_FAILED"
        assert "version 3" in answer["error_detail"]
        assert prefixes(run.shown()) == ["AI.a"]
        assert ("region config", "no space in the region") in [
            (state.name, state.failure) for state in run.service.journals()
        ]
        again = await run.node.admin("add_route", {**ROUTE, "prefix": "AI.b"})
        assert again["error_code"] == "DUPLICATE_PREFIX"  # it is stored, as the answer said
        accept()
        while run.service.is_behind:
            await trio.lowlevel.checkpoint()
        assert prefixes(run.shown()) == ["AI.a", "AI.b"]
        assert len(run.service.journals()) == 1
    async with running(paths, page) as run:
        assert run.service.book.version == 3


@on_trio
async def test_the_next_message_finds_the_region_up_to_date(paths, page, monkeypatch):
    async with running(paths, page) as run:
        accept = refuse_region(monkeypatch)
        await run.node.admin("add_route", ROUTE)
        accept()
        await run.node.admin("list_routes", {})
        assert prefixes(run.shown()) == ["AI.a"]


@on_trio
async def test_it_starts_with_a_region_that_takes_no_writes(paths, page, monkeypatch):
    monkeypatch.setattr(service_module, "_RETRY_S", 0.02)
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
    write_document(paths.routes_yaml, RouteBook(version=9))
    accept = refuse_region(monkeypatch)
    monkeypatch.setattr(Environment, "__init__", failing(Environment.__init__))
    async with running(paths, page) as run:
        assert run.service.book.version == 9  # the journal took the operator's edit
        assert run.service.is_behind
        assert prefixes(run.shown()) == ["AI.a"]  # readers keep what they have
        accept()
        monkeypatch.setattr(Environment, "__init__", Environment.__init__.original)
        while run.service.is_behind:
            await trio.lowlevel.checkpoint()
        assert run.shown().meta.doc_version == 9


def failing(original):
    def refuse(self, *args, **kwargs):
        raise Unavailable("Read-only file system", code="STORAGE_READ_ONLY")

    refuse.original = original
    return refuse


@on_trio
async def test_it_starts_on_a_journal_that_takes_no_writes_and_an_edit_waits(paths, page, monkeypatch):
    monkeypatch.setattr(service_module, "_RETRY_S", 0.02)
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
    paths.routes_yaml.write_text("version: 20\nroutes: []\n")
    refused = refuse_journal(monkeypatch)
    async with running(paths, page) as run:
        assert run.service.book.version == 2
        assert prefixes(run.shown()) == ["AI.a"]
        answer = await run.node.admin("add_route", {**ROUTE, "prefix": "AI.b"})
        assert answer["error_code"] == "PERSIST_FAILED"
        refused()
        answer = await run.node.admin("add_route", {**ROUTE, "prefix": "AI.b"})
        assert answer["payload"]["config_version"] == 21  # behind the edit, which came first
        assert prefixes(run.shown()) == ["AI.b"]


def refuse_journal(monkeypatch):
    async def append(self, record):
        raise Unavailable("Read-only file system")

    original = Journal.append
    monkeypatch.setattr(Journal, "append", append)
    return lambda: monkeypatch.setattr(Journal, "append", original)


@on_trio
async def test_a_new_hive_on_a_disk_that_refuses_has_no_configuration_until_it_takes_writes(
    paths, page, monkeypatch
):
    monkeypatch.setattr(service_module, "_RETRY_S", 0.02)
    refused = refuse_journal(monkeypatch)
    async with running(paths, page) as run:
        assert run.service.is_behind
        assert run.shown() is None  # so the router holds business nodes
        assert (await run.node.admin("list_routes", {}))["payload"]["routes"] == []
        refused()
        while run.service.is_behind:
            await trio.lowlevel.checkpoint()
        assert run.shown().meta.doc_version == 1


# --- damage and conflicts ------------------------------------------------------------------------------


@on_trio
async def test_a_lost_region_is_made_anew_from_the_journal(paths, page):
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
    for path in paths.regions_disk.iterdir():
        path.unlink()
    async with running(paths, page) as run:
        assert prefixes(run.shown()) == ["AI.a"]
        assert run.shown().meta.doc_version == 2


@on_trio
async def test_garbage_for_a_region_is_set_aside_and_made_anew(paths, page):
    async with running(paths, page) as run:
        await run.node.admin("add_route", ROUTE)
    (paths.regions_disk / "control.mdb").write_bytes(b"garbage" * 5000)
    async with running(paths, page) as run:
        assert prefixes(run.shown()) == ["AI.a"]
    assert (paths.regions_disk / "control.damaged-1").exists()


@on_trio
async def test_a_lost_journal_begins_anew_from_the_operator_s_file(paths, page):
    async with running(paths, page) as run:
        for number in range(4):
            await run.node.admin("add_route", {**ROUTE, "prefix": f"AI.{number}"})
    for path in (paths.journals / "config.routes").iterdir():
        path.unlink()
    async with running(paths, page) as run:
        assert run.service.book.version == 5
        assert len(run.shown().routes) == 4
        assert (await run.node.admin("add_route", ROUTE))["payload"]["config_version"] == 6
        assert len(run.shown().routes) == 5


@on_trio
async def test_a_record_that_does_not_decode_is_damage_and_named(paths, page):
    async with running(paths, page) as run:
        await run.journal.append(b'{"version": "x"}')
    with pytest.raises(Damaged) as caught:
        async with running(paths, page):
            pass
    assert "config.routes" in str(caught.value)


@on_trio
async def test_a_second_one_is_refused(paths, page):
    async with running(paths, page):
        with pytest.raises(Conflict):
            async with service_of(paths, regions_of(paths, page)).opened():
                pass


@on_trio
async def test_a_region_that_another_process_writes_is_a_conflict_at_start(paths, page):
    with Environment(SPEC, paths.regions_disk, (CONFIG,), page=page), pytest.raises(Conflict):
        async with service_of(paths, regions_of(paths, page)).opened():
            pass


# --- answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Busy("queue full"), Unavailable("closed")])
@on_trio
async def test_an_answer_that_cannot_be_sent_does_not_end_the_service(paths, page, error):
    async with running(paths, page) as run:
        run.node.refuses = error
        run.node.put(ROUTE, type="admin", action="add_route")
        while run.service.book.version == 1:
            await trio.lowlevel.checkpoint()
        run.node.refuses = None
        assert (await run.node.admin("list_routes", {}))["payload"]["config_version"] == 2


@on_trio
async def test_a_message_without_a_sender_is_done_and_not_answered(paths, page):
    async with running(paths, page) as run:
        run.node.put(ROUTE, src="", type="admin", action="add_route")
        assert (await run.node.admin("list_routes", {}))["payload"]["config_version"] == 2


@on_trio
async def test_serving_ends_with_its_node(paths, page):
    with regions_of(paths, page) as regions:
        service = service_of(paths, regions)
        async with service.opened():
            node = Node()
            node.close()
            await service.serve(node)


@on_trio
async def test_the_published_copy_follows(paths, page):
    with regions_of(paths, page) as regions:
        await follow_the_copy(regions, paths)


async def follow_the_copy(regions, paths):
    from appliance.store.published import PublishedRegion

    service = service_of(paths, regions)
    async with service.opened(), trio.open_nursery() as nursery:
        node = Node()
        nursery.start_soon(service.serve, node)
        nursery.start_soon(regions.publish)
        await node.admin("add_route", ROUTE)
        with PublishedRegion(paths.published / "control.mdb", (CONFIG,)) as copy:
            with trio.fail_after(10):
                while True:
                    try:
                        meta = copy.get(CFG_META, "v")
                    except FluxbeeError:
                        meta = None
                    if meta is not None and meta.doc_version == 2:
                        break
                    await trio.sleep(0.02)
            assert copy.count(CFG_ROUTE) == 1
        nursery.cancel_scope.cancel()


@on_trio
async def test_a_stop_in_the_middle_of_starting_leaves_everything_usable(paths, page):
    for steps in range(0, 40, 2):
        async with trio.open_nursery() as nursery:

            async def live():
                async with running(paths, page):
                    await trio.sleep_forever()

            nursery.start_soon(live)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    async with running(paths, page) as run:
        assert (await run.node.admin("add_route", ROUTE))["status"] == "ok"
        assert not run.journal.repairs
