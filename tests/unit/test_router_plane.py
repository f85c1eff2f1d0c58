"""The data plane's body in this process: what it opens, in which order it fails, stops and recovers."""

from __future__ import annotations

import json
import os
import socket
import stat
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from appliance.router import plane as plane_module
from appliance.router.claims import Claims
from appliance.router.config import EngineSettings
from appliance.router.connection import Peer
from appliance.router.plane import DataPlane, DataPlaneConfig
from appliance.store.generations import GenerationPage
from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.store.layouts import CFG_META, CFG_VPN, CONFIG, NODE, NODES, ConfigMeta
from appliance.store.region import Environment
from appliance.store.region_admit import CONTROL, LIVE
from appliance.store.region_reader import RegionReader
from appliance.system.paths import Paths
from appliance.wire.errors import Conflict, Damaged, FluxbeeError, Misconfigured, Unavailable
from appliance.wire.frames import FrameSplitter
from appliance.wire.routes import VpnRule
from tests.router_kit import frame_bytes, message, numbered_uuid, pack
from tests.trio_kit import on_trio

HIVE = "north"
SETTINGS = EngineSettings(
    hive=HIVE,
    router_uuid="",
    router_name=f"RT.gateway@{HIVE}",
    admin_nodes=("*",),
    system_uids=frozenset({os.getuid()}),
)
SMALL = msgspec.structs.replace(CONTROL, map_bytes=4 << 20)


@pytest.fixture
def paths(hive_folder):
    return Paths(hive_folder)


@pytest.fixture
def page(paths):
    page = GenerationPage.create(paths.generations)
    yield page
    page.close()


def plane_of(paths, page, **changes):
    config = DataPlaneConfig(
        engine=SETTINGS,
        flush_interval_s=0.01,
        sync_interval_s=0.02,
        live=msgspec.structs.replace(LIVE, map_bytes=4 << 20),
        **changes,
    )
    return DataPlane(config, paths, page)


@asynccontextmanager
async def running(plane):
    async with trio.open_nursery() as nursery:
        yield await nursery.start(plane.run)
        nursery.cancel_scope.cancel()


def configure(paths, page, *vpns, version=1):
    """Write the route configuration as the route service does."""
    with Environment(SMALL, paths.regions_disk, (CONFIG,), page=page) as environment:
        with environment.change("config") as txn:
            CFG_META.put(txn, "v", ConfigMeta(version, 0, HIVE))
            for index, rule in enumerate(vpns):
                CFG_VPN.put(txn, index, rule)
        environment.finish_rebuild("config")


class Client:
    """A node on a real socket."""

    def __init__(self, path, number, name):
        self.uuid = numbered_uuid(number)
        self.name = name
        self._path = path
        self._splitter = FrameSplitter()
        self._bodies = []

    async def connect(self):
        self._socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        await self._socket.connect(str(self._path))
        hello = {"uuid": self.uuid, "name": self.name, "version": "1"}
        await self.send(None, type="system", msg="HELLO", payload=hello, ttl=1)
        return self

    async def send(self, dst, **parts):
        await self._socket.send(pack(frame_bytes(message(self.uuid, dst, **parts))))

    async def read(self):
        while not self._bodies:
            data = await self._socket.recv(65536)
            if not data:
                return None
            self._bodies += self._splitter.feed(data)
        return json.loads(self._bodies.pop(0))

    async def ask_router(self, verb, payload=None):
        await self.send(f"RT.gateway@{HIVE}", type="system", msg=verb, payload=payload or {})
        while (answer := await self.read())["meta"].get("msg") != f"{verb}_RESPONSE":
            pass
        return answer["payload"]

    def close(self):
        self._socket.close()


async def joined(plane, number, name):
    client = await Client(socket_of(plane), number, name).connect()
    announce = await client.read()
    assert announce["meta"]["msg"] == "ANNOUNCE"
    return client


def socket_of(plane):
    return plane._socket_path


@on_trio
async def test_started_means_that_a_node_is_announced_routed_and_counted_in_the_region(paths, page):
    configure(paths, page)
    async with running(plane_of(paths, page)) as plane:
        one, two = await joined(plane, 1, "AI.one"), await joined(plane, 2, "AI.two")
        await one.send("AI.two@north", thread_id="t", payload={"n": 1})
        got = await two.read()
        assert got["payload"] == {"n": 1}
        assert got["meta"]["thread_seq"] == 1
        with RegionReader(paths.regions_tmp / "live.mdb", (NODES,)) as reader:
            assert {row.name for _, row in reader.items(NODE)} == {"AI.one@north", "AI.two@north"}
        status = await one.ask_router("ROUTER_STATUS")
        assert status["configured"]
        assert {one["name"]: one["failure"] for one in status["journals"]} == {
            "journal storage.turns": None,
            "journal threads": None,
        }
        assert status["threads"]["noted"]
        one.close()
        two.close()


@on_trio
async def test_what_was_delivered_is_in_the_turn_journal_after_the_stop(paths, page):
    configure(paths, page)
    async with running(plane_of(paths, page)) as plane:
        one = await joined(plane, 1, "AI.one")
        for number in range(20):
            await one.send("AI.one@north", payload=number)
            await one.read()
        one.close()
    journal = Journal.open(
        paths.journals / "storage.turns", JournalSpec(name="storage.turns", durability="relaxed")
    )
    async with journal:
        batch = await journal.read(1)
    assert [json.loads(record)["payload"] for record in batch.records] == list(range(20))
    assert not journal.damages
    assert not journal.repairs


@on_trio
async def test_nodes_are_held_until_the_configuration_was_read_once(paths, page):
    async with running(plane_of(paths, page)) as plane:
        node = await Client(socket_of(plane), 1, "AI.held").connect()
        service = await joined(plane, 2, "SY.service")
        with trio.move_on_after(0.1) as waited:
            await node.read()
        assert waited.cancelled_caught
        status = await service.ask_router("ROUTER_STATUS")
        assert (status["held"], status["configured"]) == (1, False)
        configure(paths, page, VpnRule(pattern="AI.*", vpn_id=9))
        announce = await node.read()
        assert announce["payload"]["vpn_id"] == 9
        assert (await service.ask_router("ROUTER_STATUS"))["configured"]
        node.close()
        service.close()


@on_trio
async def test_a_change_of_the_configuration_moves_connected_nodes(paths, page):
    configure(paths, page)
    async with running(plane_of(paths, page)) as plane:
        one = await joined(plane, 1, "AI.one")
        configure(paths, page, VpnRule(pattern="AI.one", vpn_id=5), version=2)
        with trio.fail_after(5):
            while (await nodes(one))["AI.one@north"] != 5:
                pass
        with RegionReader(paths.regions_tmp / "live.mdb", (NODES,)) as reader:
            assert [row.vpn_id for _, row in reader.items(NODE)] == [5]
        one.close()


async def nodes(client):
    answer = await client.ask_router("ROUTER_NODES")
    return {node["name"]: node["vpn_id"] for node in answer["nodes"]}


@on_trio
async def test_a_lost_configuration_leaves_the_last_one_in_force_and_is_read_when_it_is_back(
    paths, page, monkeypatch
):
    monkeypatch.setattr(plane_module, "_UPKEEP_S", 0.02)
    configure(paths, page, VpnRule(pattern="AI.*", vpn_id=4))
    async with running(plane_of(paths, page)) as plane:
        one = await joined(plane, 1, "AI.one")
        data = paths.regions_disk / "control.mdb"
        data.rename(data.with_suffix(".away"))
        plane._view.look_again()
        status = await until(one, lambda status: status["configuration_failure"])
        assert status["configured"]
        assert await nodes(one) == {"AI.one@north": 4}
        data.with_suffix(".away").rename(data)  # no generation moves: only looking again finds it
        await until(one, lambda status: status["configuration_failure"] is None)
        one.close()


async def until(client, wanted):
    while True:
        status = await client.ask_router("ROUTER_STATUS")
        if wanted(status):
            return status


@on_trio
async def test_a_plane_s_socketpair_is_the_appliance_itself(paths, page):
    configure(paths, page)
    config = DataPlaneConfig(engine=msgspec.structs.replace(SETTINGS, system_uids=frozenset({1 << 30})))
    async with running(DataPlane(config, paths, page)) as plane:
        outside = await Client(socket_of(plane), 1, "SY.forged").connect()
        assert await outside.read() is None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        plane.attach(theirs, Peer(plane="control"))
        inside = Client(None, 2, "SY.true")
        inside._socket = trio.socket.from_stdlib_socket(ours)
        hello = {"uuid": inside.uuid, "name": "SY.true", "version": "1"}
        await inside.send(None, type="system", msg="HELLO", payload=hello, ttl=1)
        assert (await inside.read())["meta"]["msg"] == "ANNOUNCE"
        inside.close()
        outside.close()


@on_trio
async def test_a_claim_counts_at_once_for_newcomers_and_for_who_is_there(paths, page):
    configure(paths, page)
    claims = Claims()
    config = DataPlaneConfig(engine=SETTINGS, live=msgspec.structs.replace(LIVE, map_bytes=4 << 20))
    async with running(DataPlane(config, paths, page, claims=claims)) as plane:
        stranger, other = await joined(plane, 1, "AI.one"), await joined(plane, 2, "AI.two")
        claims.claim("AI.one@north", session=2**22 + 1, token_sha256="-")
        assert await stranger.read() is None
        again = await Client(socket_of(plane), 3, "AI.one").connect()
        assert await again.read() is None
        assert (await other.ask_router("ROUTER_STATUS"))["claimed_names"] == 1
        claims.unclaim("AI.one@north")
        free = await joined(plane, 4, "AI.one")
        for client in (stranger, other, again, free):
            client.close()
    assert claims.on_change is None


@on_trio
async def test_stopping_marks_everything_clean_and_starting_again_finds_it_so(paths, page):
    configure(paths, page)
    for start in range(3):
        plane = plane_of(paths, page)
        async with running(plane):
            assert plane._live.opened.kept == (start > 0)
            assert not plane._threads.repairs
            one = await joined(plane, 1, "AI.one")
            await one.send("AI.one@north", thread_id="t")
            assert (await one.read())["meta"]["thread_seq"] == 1 + 1024 * start
            one.close()
        mark = json.loads((paths.regions_tmp / "live.mark").read_text())
        assert mark["clean"]


@on_trio
async def test_a_second_one_in_the_same_place_is_refused_and_leaves_the_first_alone(paths, page):
    configure(paths, page)
    async with running(plane_of(paths, page)) as plane:
        one = await joined(plane, 1, "AI.one")
        with pytest.raises(ExceptionGroup) as caught:
            await plane_of(paths, page).run()
        assert caught.group_contains(Conflict)
        await one.send("AI.one@north")
        assert await one.read() is not None
        one.close()


def garble(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"garbage")


def break_identity(paths):
    garble(paths.router_identity(SETTINGS.router_name))


def break_turns(paths):
    garble(paths.journals / "storage.turns")  # a file where a directory should be


def break_threads(paths):
    garble(paths.journals / "threads")


def break_kind(paths):
    """The journal of threads was made as a log."""
    journal = Journal.open(paths.journals / "threads", JournalSpec(name="threads", durability="relaxed"))
    journal.append_nowait([b"x"])
    journal.close()


def break_socket(paths):
    uuid = numbered_uuid(77)
    path = paths.router_identity(SETTINGS.router_name)
    path.parent.mkdir(parents=True)
    path.write_text(f"layer1: {{uuid: {uuid}}}\n")
    (paths.routers / f"{uuid.replace('-', '')}.sock").mkdir(parents=True)


@pytest.mark.parametrize(
    ("break_it", "error", "word"),
    [
        (break_identity, Damaged, "identity.yaml"),
        (break_turns, Unavailable, "storage.turns"),
        (break_threads, Unavailable, "threads"),
        (break_kind, Misconfigured, "threads"),
        (break_socket, Misconfigured, ".sock"),
    ],
)
@on_trio
async def test_what_keeps_it_from_starting_is_named_and_everything_is_let_go(
    paths, page, break_it, error, word
):
    break_it(paths)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises((FluxbeeError, ExceptionGroup)) as caught:
        await plane_of(paths, page).run()
    found = [caught.value]
    while isinstance(found[0], ExceptionGroup):
        found = list(found[0].exceptions)
    assert [type(one) for one in found] == [error], found
    assert word in str(found[0])
    assert found[0].remedy
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1  # the directory listing itself


@on_trio
async def test_a_stop_in_the_middle_of_starting_leaves_nothing_behind(paths, page):
    """Cancelled after every possible number of scheduling steps."""
    configure(paths, page)
    for steps in range(0, 60, 3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plane_of(paths, page).run)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    async with running(plane_of(paths, page)) as plane:
        assert not plane._threads.repairs
        assert not plane._turns.damages


@on_trio
async def test_a_stop_before_the_shell_runs_closes_the_listening_socket(paths, page, monkeypatch):
    configure(paths, page)

    async def begin(ledger):
        await trio.sleep_forever()

    with monkeypatch.context() as patched:
        patched.setattr(plane_module.ThreadLedger, "begin", begin)
        plane = plane_of(paths, page)
        with trio.move_on_after(5) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(plane.run)
                while not hasattr(plane, "shell"):  # noqa: ASYNC110 - it says nothing before it has started
                    await trio.sleep(0.005)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
    async with running(plane_of(paths, page)):
        pass  # nobody serves on its socket


@on_trio
async def test_the_socket_has_the_rights_of_the_settings(paths, page):
    async with running(plane_of(paths, page, socket_mode=0o600, socket_group="no-such-group")) as plane:
        assert stat.S_IMODE(os.stat(socket_of(plane)).st_mode) == 0o600


@on_trio
async def test_upkeep_clears_the_count_of_failed_openings(paths, page, monkeypatch):
    """Else an environment would be set aside after three kills, however long each run was."""
    monkeypatch.setattr(plane_module, "_UPKEEP_S", 0.01)
    configure(paths, page)
    async with running(plane_of(paths, page)):
        assert json.loads((paths.regions_tmp / "live.mark").read_text())["opens"] == 1
        while json.loads((paths.regions_tmp / "live.mark").read_text())["opens"]:
            await trio.lowlevel.checkpoint()


@on_trio
async def test_a_region_that_fell_behind_is_written_anew(paths, page, monkeypatch):
    monkeypatch.setattr(plane_module, "_UPKEEP_S", 0.02)
    configure(paths, page)
    async with running(plane_of(paths, page)) as plane:
        one = await joined(plane, 1, "AI.one")

        def begin(change):
            raise Unavailable("no space")

        plane._live.begin = begin
        two = await joined(plane, 2, "AI.two")
        status = await one.ask_router("ROUTER_STATUS")
        assert status["regions"] == [{"name": "region live", "failure": "no space"}]
        del plane._live.begin
        status = await until(one, lambda status: status["regions"][0]["failure"] is None)
        with RegionReader(paths.regions_tmp / "live.mdb", (NODES,)) as reader:
            assert reader.count(NODE) == 2
        one.close()
        two.close()


@on_trio
async def test_turns_that_the_journal_refuses_are_counted_and_become_a_gap_record(paths, page):
    configure(paths, page)
    async with running(plane_of(paths, page)) as plane:
        one = await joined(plane, 1, "AI.one")
        committer = plane._turns._engine.committer
        committer._fail(OSError(28, "No space left on device"), plane._turns._engine.now())
        for number in range(5):
            await one.send("AI.one@north", payload=number)
            assert (await one.read())["payload"] == number  # routing goes on
        status = await one.ask_router("ROUTER_STATUS")
        assert status["turns"]["refused"] == 5
        assert "No space" in status["journals"][0]["failure"]
        await plane._turns.resume()
        await one.send("AI.one@north", payload="after")
        await one.read()
        await plane._turns.sync()
        batch = await plane._turns.read(1)
        records = [json.loads(record) for record in batch.records]
        assert records[0]["payload"] == "after"
        gap = {"first": 1, "last": 5, "count": 5, "reasons": ["refused"]}
        assert records[1] == {"gap": gap}
        one.close()


@on_trio
async def test_the_ledger_is_noted_again_when_the_disk_is_back(paths, page, monkeypatch):
    monkeypatch.setattr(plane_module, "_REFUSED_S", 0.02)
    configure(paths, page)
    async with running(plane_of(paths, page)) as plane:
        one = await joined(plane, 1, "AI.one")
        committer = plane._threads._engine.committer
        committer._fail(OSError(30, "Read-only file system"), plane._threads._engine.now())
        await one.send("AI.one@north", thread_id="t")
        assert (await one.read())["meta"]["thread_seq"] == 1
        status = await one.ask_router("ROUTER_STATUS")
        assert status["threads"]["unwritten"] == 1
        await plane._threads.resume()
        while plane._ledger.wants_note:
            await trio.lowlevel.checkpoint()
        one.close()
