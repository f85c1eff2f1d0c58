"""SY.identity with journal and region: what is answered is there, whatever fails in between."""

from __future__ import annotations

import errno
import os
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from appliance.identity import UpsertIlk, decode_transaction
from appliance.services.control_regions import ControlRegions
from appliance.services.identity import IdentityService, IdentitySettings
from appliance.services.identity import keeping as keeping_module
from appliance.services.identity import region as region_module
from appliance.services.identity import service as service_module
from appliance.services.identity.region import channel_digest
from appliance.store.generations import GenerationPage
from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.store.layouts import (
    CONFIG,
    IDENTITY,
    IDENTITY_CHANNEL,
    IDENTITY_META,
    IDENTITY_NODE_NAME,
    ILK,
    TENANT,
)
from appliance.store.region import Environment
from appliance.store.region_admit import CONTROL
from appliance.store.region_reader import RegionReader
from appliance.store.replay import replay
from appliance.system.paths import Paths
from appliance.wire.envelope import Meta, build_message
from appliance.wire.errors import Busy, Conflict, Unavailable
from appliance.wire.identity import IlkRecord, id_uuid
from tests.services_kit import ServiceNode
from tests.trio_kit import on_trio

HIVE = "motherbee"
SPEC = msgspec.structs.replace(CONTROL, map_bytes=8 << 20)
TENANT_ID = "tnt:00000000-0000-4000-8000-0000000000aa"
ORCHESTRATOR, ADMIN = "SY.orchestrator@motherbee", "SY.admin@motherbee"


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

    def put(
        self, verb, payload, caller=ORCHESTRATOR, *, src="asker", dst="SY.identity@motherbee", kind="system"
    ):
        meta = Meta(type=kind, msg=verb)
        message = build_message(src=src, dst=dst, payload=payload, meta=meta, trace_id="trace")
        message.routing.src_l2_name = caller
        self.questions.send_nowait(message)

    async def ask(self, verb, payload, caller=ORCHESTRATOR):
        self.put(verb, payload, caller)
        self.last = await self.answered.receive()
        return self.last.json()

    async def register(self, number=1, **keys):
        return await self.ask("ILK_REGISTER", registration(number, **keys))


def registration(number=1, **keys):
    given = {
        "ilk_id": f"ilk:00000000-0000-4000-8000-{number:012d}",
        "ilk_type": "agent",
        "tenant_id": TENANT_ID,
        "identification": {"node_name": f"AI.n{number}@motherbee"},
        "auto_tenant": True,
    }
    return {**given, **keys}


class Running:
    """A service that is served, with its node."""

    def __init__(self, service, node, paths):
        self.service = service
        self.node = node
        self.journal = service._keeping._journal
        self._paths = paths

    def shown(self):
        return shown(self._paths)

    def committer_fails(self, error=errno.ENOSPC):
        committer = self.journal._engine.committer
        committer._fail(OSError(error, os.strerror(error)), self.journal._engine.now())


def shown(paths):
    """Everything that a reader of the region sees, tables by name."""
    with RegionReader(paths.regions_disk / "control.mdb", (IDENTITY,)) as reader:
        assert reader.ready("identity")
        with reader.read() as txn:
            return {table.name: dict(table.items(txn)) for table in IDENTITY.tables}


@asynccontextmanager
async def running(paths, page, **settings):
    given = {"is_primary": True, "frontdesk": "SY.frontdesk.gov@motherbee", **settings}
    with ControlRegions(SPEC, paths.regions_disk, page, paths.published) as regions:
        service = IdentityService(HIVE, paths, settings=IdentitySettings(**given), regions=regions)
        async with service.opened(), trio.open_nursery() as nursery:
            node = Node()
            nursery.start_soon(service.serve, node)
            nursery.start_soon(service.upkeep)
            yield Running(service, node, paths)
            nursery.cancel_scope.cancel()


async def stored(paths):
    """The changes in the journal, base image and all."""
    spec = JournalSpec(name="identity", kind="state", durability="durable")
    found = []
    async with await Journal.opened(paths.journals / "identity", spec) as journal:
        assert not journal.damages
        async for part in replay(journal):
            assert isinstance(part, list)
            found += [(sequence, decode_transaction(record)) for sequence, record in part]
    return found


def refuse_region(monkeypatch):
    """The region takes no change until the returned function is called."""

    def begin(self, change):
        raise Unavailable("no space in the region", code="STORAGE_FULL")

    original = Environment.begin
    monkeypatch.setattr(Environment, "begin", begin)
    return lambda: monkeypatch.setattr(Environment, "begin", original)


def refuse_journal(monkeypatch):
    async def append(self, record):
        raise Unavailable("Read-only file system")

    original = Journal.append
    monkeypatch.setattr(Journal, "append", append)
    return lambda: monkeypatch.setattr(Journal, "append", original)


# --- in order ------------------------------------------------------------------------------------------


@on_trio
async def test_a_new_hive_has_its_default_tenant_in_journal_and_region(paths, page):
    async with running(paths, page, default_tenant="acme") as run:
        tables = run.shown()
        meta = tables[IDENTITY_META.name]["v"]
        assert tables[TENANT.name][id_uuid(meta.default_tenant_id)].name == "acme"
    ((sequence, change),) = await stored(paths)
    assert (sequence, change.action, change.actor) == (1, "START", None)
    async with running(paths, page, default_tenant="other") as run:
        assert run.shown()[IDENTITY_META.name]["v"] == meta


@on_trio
async def test_when_a_registration_is_answered_journal_and_region_have_it(paths, page):
    async with running(paths, page) as run:
        answer = await run.node.register(1)
        assert answer == {"status": "ok", "ilk_id": registration(1)["ilk_id"]}
        assert run.node.last.meta.msg == "ILK_REGISTER_RESPONSE"
        assert (run.node.last.routing.dst, run.node.last.routing.trace_id) == ("asker", "trace")
        key = id_uuid(answer["ilk_id"])
        tables = run.shown()
        assert tables[IDENTITY_NODE_NAME.name] == {"AI.n1@motherbee": key}
        assert tables[ILK.name][key] == run.service.directory.ilks[answer["ilk_id"]]
        assert id_uuid(TENANT_ID) in tables[TENANT.name]
    _, change = (await stored(paths))[-1]
    assert (change.action, change.actor, change.reason, change.trace_id) == (
        "ILK_REGISTER",
        ORCHESTRATOR,
        "auto_tenant",
        "trace",
    )


@on_trio
async def test_names_and_interlocutors_stay_together_over_a_restart(paths, page):
    async with running(paths, page) as run:
        first = await run.node.register(1)
    async with running(paths, page) as run:
        again = await run.node.register(7, identification={"node_name": "AI.n1@motherbee"})
        assert again == first
        assert run.service.statistics().unchanged == 1
    assert len(await stored(paths)) == 2


@on_trio
async def test_index_rows_follow_what_changes(paths, page):
    async with running(paths, page) as run:
        ilk_id = (await run.node.register(1))["ilk_id"]
        for address in ("a@b.c", "new@b.c"):
            channel = {
                "ich_id": "ich:00000000-0000-4000-8000-000000000001",
                "type": "email",
                "address": address,
            }
            await run.node.ask(
                "ILK_UPDATE", {"ilk_id": ilk_id, "add_channels": [channel], "change_reason": "why"}
            )
        await run.node.register(1, identification={"node_name": "AI.renamed@motherbee"})
        tables = run.shown()
        (record,) = run.service.directory.ilks.values()
        digest = channel_digest(record.channels[0])
        assert tables[IDENTITY_CHANNEL.name] == {
            digest: ("00000000-0000-4000-8000-000000000001", id_uuid(ilk_id))
        }
        assert tables[IDENTITY_NODE_NAME.name] == {"AI.renamed@motherbee": id_uuid(ilk_id)}
        figures = run.service.statistics()
        assert (figures.changes, figures.ilks, figures.tenants) == (4, 1, 2)
    assert (await stored(paths))[-2][1].reason == "why"


@on_trio
async def test_a_base_image_lets_the_journal_stay_small_and_rebuilds_all(paths, page, monkeypatch):
    monkeypatch.setattr(keeping_module, "_BASE_EVERY", 4)
    monkeypatch.setattr(keeping_module, "_OPS_PER_RECORD", 2)
    async with running(paths, page) as run:
        for number in range(1, 7):
            await run.node.register(number)
        assert run.journal.base is not None
        before = run.shown()
    for path in paths.regions_disk.iterdir():
        path.unlink()
    async with running(paths, page) as run:
        assert run.shown() == before
        assert (await run.node.register(7))["status"] == "ok"
        assert len(run.shown()[ILK.name]) == 7


@on_trio
async def test_a_base_image_that_fails_is_no_failed_change(paths, page, monkeypatch):
    monkeypatch.setattr(keeping_module, "_BASE_EVERY", 1)

    async def write_base(self, *_):
        raise Unavailable("no space for an image")

    monkeypatch.setattr(Journal, "write_base", write_base)
    async with running(paths, page) as run:
        assert (await run.node.register(1))["status"] == "ok"


# --- answers -------------------------------------------------------------------------------------------


@on_trio
async def test_reads_and_open_verbs(paths, page):
    async with running(paths, page) as run:
        ilk_id = (await run.node.register(1))["ilk_id"]
        listed = await run.node.ask("ILK_LIST", {}, ADMIN)
        assert (listed["count"], listed["ilks"][0]["node_name"]) == (1, "AI.n1@motherbee")
        got = await run.node.ask("ILK_GET", {"ilk_id": ilk_id}, ADMIN)
        assert (got["ilk"]["ilk_id"], got["tenant"]["tenant_id"]) == (ilk_id, TENANT_ID)
        assert (got["alias_resolved"], got["merged_aliases"], got["queried_alias"]) == (False, [], None)
        metrics = await run.node.ask("IDENTITY_METRICS", {}, "AI.any@h")
        assert metrics["metrics"]["ilk_count"] == 1
        pong = await run.node.ask("PING", {}, "AI.any@h")
        assert run.node.last.meta.msg == "PONG"
        assert (pong["state"], pong["database"]["ready"]) == ("configured", True)
        status = await run.node.ask("STATUS", None, "AI.any@h")
        assert (status["role"], status["database"]["last_error"]) == ("primary", None)


@on_trio
async def test_a_long_list_comes_in_pages_that_fit_a_frame(paths, page):
    async with running(paths, page) as run:
        ids = [f"ilk:00000000-0000-4000-8000-{number:012d}" for number in range(1, 301)]
        long = {"display_name": "x" * 500}
        run.service.directory.apply(
            UpsertIlk(row=IlkRecord(ilk_id=one, ilk_type="agent", tenant_id=TENANT_ID, identification=long))
            for one in ids
        )
        found, after = [], None
        while True:
            page_of = await run.node.ask("ILK_LIST", {} if after is None else {"after": after}, ADMIN)
            assert page_of["count"] == len(page_of["ilks"])
            found += [entry["ilk_id"] for entry in page_of["ilks"]]
            after = page_of.get("next_after")
            if after is None:
                break
            assert page_of["total"] == 300
        assert found == ids
        assert (await run.node.ask("ILK_LIST", {"limit": 2}, ADMIN))["count"] == 2
        assert (await run.node.ask("ILK_LIST", {"limit": 0}, ADMIN))["error_code"] == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("verb", "payload", "caller", "code"),
    [
        ("ILK_REGISTER", registration(), ADMIN, "UNAUTHORIZED_REGISTRAR"),
        ("ILK_REGISTER", registration(), None, "UNAUTHORIZED_REGISTRAR"),
        ("ILK_LIST", {}, ORCHESTRATOR, "UNAUTHORIZED_REGISTRAR"),
        ("ILK_REGISTER", registration(degree="x"), ORCHESTRATOR, "INVALID_REQUEST"),
        ("ILK_REGISTER", registration(), "SY.frontdesk.gov@motherbee", "INVALID_REQUEST"),
        ("ILK_REGISTER", registration(auto_tenant=False), ORCHESTRATOR, "INVALID_TENANT"),
        ("ILK_REGISTER", {**registration(), "tenant_id": None}, ORCHESTRATOR, "INVALID_REQUEST"),
        ("ILK_UPDATE", {"ilk_id": registration(9)["ilk_id"]}, ORCHESTRATOR, "ILK_NOT_FOUND"),
        ("ILK_GET", {"ilk_id": registration(9)["ilk_id"]}, ADMIN, "NOT_FOUND"),
        ("ILK_GET", {"ilk_id": "ilk:1"}, ADMIN, "INVALID_REQUEST"),
        ("TNT_CREATE", {"name": "x"}, ORCHESTRATOR, "UNAUTHORIZED_REGISTRAR"),
        ("TNT_APPROVE", {"tenant_id": TENANT_ID}, ADMIN, "INVALID_TENANT"),
    ],
)
@on_trio
async def test_refusals_have_their_codes(paths, page, verb, payload, caller, code):
    async with running(paths, page) as run:
        answer = await run.node.ask(verb, payload, caller)
        assert (answer["status"], answer["error_code"]) == ("error", code)
        assert answer["message"]
        if code == "UNAUTHORIZED_REGISTRAR":
            assert (answer["action"], answer["src_uuid"], answer["src_l2_name"]) == (verb, "asker", caller)
        assert run.service.statistics().changes == 0


@on_trio
async def test_tenants_of_a_front_desk_wait_for_approval(paths, page):
    async with running(paths, page) as run:
        asked = {"name": "Acme", "status": "active"}
        made = await run.node.ask("TNT_CREATE", asked, "SY.frontdesk.gov@motherbee")
        answer = await run.node.register(1, tenant_id=made["tenant_id"])
        assert answer["error_code"] == "TENANT_PENDING"
        await run.node.ask("TNT_APPROVE", {"tenant_id": made["tenant_id"]}, ADMIN)
        assert (await run.node.register(1, tenant_id=made["tenant_id"]))["status"] == "ok"
        by_admin = await run.node.ask("TNT_CREATE", {"name": "Bolt", "status": "active"}, ADMIN)
        assert run.service.directory.tenants[by_admin["tenant_id"]].status == "active"


@on_trio
async def test_a_worker_reads_and_sends_changes_to_the_primary(paths, page):
    async with running(paths, page, is_primary=False) as run:
        answer = await run.node.register(1)
        assert (answer["error_code"], answer["primary"]) == ("NOT_PRIMARY", "SY.identity@motherbee")
        assert answer["replica_hive_id"] == HIVE
        assert (await run.node.ask("ILK_LIST", {}, ADMIN))["ilks"] == []
        assert (await run.node.ask("PING", {}))["state"] == "replica_non_primary"
        assert not run.service.is_behind
        assert run.shown()[TENANT.name] == {}
    assert await stored(paths) == []


@on_trio
async def test_what_concerns_nobody_here_is_not_answered(paths, page):
    async with running(paths, page) as run:
        run.node.put("DEGREE_LIST", {})
        run.node.put("ILK_LIST", {}, ADMIN, kind="user")
        run.node.put("ILK_LIST", {}, ADMIN, dst="broadcast")
        run.node.put("ILK_REGISTER", registration(1), src="")
        await run.node.ask("PING", {})
        assert run.node.last.meta.msg == "PONG"
        assert run.service.statistics().changes == 1


@pytest.mark.parametrize("error", [Busy("queue full"), Unavailable("closed")])
@on_trio
async def test_an_answer_that_cannot_be_sent_does_not_end_the_service(paths, page, error):
    async with running(paths, page) as run:
        run.node.refuses = error
        run.node.put("ILK_REGISTER", registration(1))
        while not run.service.directory.ilks:
            await trio.lowlevel.checkpoint()
        run.node.refuses = None
        assert (await run.node.ask("PING", {}))["ok"]


# --- trouble -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
@on_trio
async def test_what_the_journal_refuses_is_refused_and_reading_goes_on(paths, page, error):
    async with running(paths, page) as run:
        await run.node.register(1)
        run.committer_fails(error)
        answer = await run.node.register(2)
        assert (answer["error_code"], answer["state"]) == ("DB_NOT_READY", "db_not_ready")
        assert answer["node_name"] == "SY.identity@motherbee"
        assert (await run.node.ask("ILK_LIST", {}, ADMIN))["count"] == 1
        assert next(state.failure for state in run.service.journals())
        pong = await run.node.ask("PING", {})
        assert (pong["ok"], pong["state"], pong["database"]["ready"]) == (False, "db_not_ready", False)
        await run.journal.resume()
        assert (await run.node.register(2))["status"] == "ok"
        assert len(run.shown()[ILK.name]) == 2
        assert [state.failure for state in run.service.journals()] == [None]
    async with running(paths, page) as run:
        assert len(run.shown()[ILK.name]) == 2


@on_trio
async def test_an_append_whose_outcome_is_unknown_is_looked_up_before_the_next_change(
    paths, page, monkeypatch
):
    """A stalled disk: the error comes, and the record is stored all the same."""
    async with running(paths, page) as run:
        await run.node.register(1)
        original = Journal.append

        async def stall(self, record):
            await original(self, record)
            raise Unavailable("the disk is slow", code="STORAGE_STALLED")

        monkeypatch.setattr(Journal, "append", stall)
        assert (await run.node.register(2))["error_code"] == "DB_NOT_READY"
        monkeypatch.setattr(Journal, "append", original)
        answer = await run.node.register(3, identification={"node_name": "AI.n2@motherbee"})
        assert answer["ilk_id"] == registration(2)["ilk_id"]
        assert len(run.shown()[ILK.name]) == 2
    assert len(await stored(paths)) == 3


@on_trio
async def test_what_only_the_region_refuses_is_stored_and_takes_effect_later(paths, page, monkeypatch):
    monkeypatch.setattr(service_module, "_RETRY_S", 0.02)
    async with running(paths, page) as run:
        await run.node.register(1)
        accept = refuse_region(monkeypatch)
        answer = await run.node.register(2)
        assert answer["error_code"] == "DB_NOT_READY"
        assert answer["message"].startswith("stored")
        refused = await run.node.register(3)
        assert (refused["error_code"], refused["message"]) == ("DB_NOT_READY", "no space in the region")
        assert [state.name for state in run.service.journals()] == ["journal identity", "region identity"]
        accept()
        while run.service.is_behind:
            await trio.lowlevel.checkpoint()
        assert len(run.shown()[ILK.name]) == 2
    assert len(await stored(paths)) == 3


@on_trio
async def test_it_starts_with_a_region_that_takes_no_writes(paths, page, monkeypatch):
    monkeypatch.setattr(service_module, "_RETRY_S", 0.02)
    accept = refuse_region(monkeypatch)
    async with running(paths, page) as run:
        assert (await run.node.register(1))["error_code"] == "DB_NOT_READY"
        assert not (await run.node.ask("PING", {}))["ok"]
        accept()
        assert (await run.node.register(1))["status"] == "ok"
        assert len(run.shown()[ILK.name]) == 1


@on_trio
async def test_a_new_hive_on_a_journal_that_takes_no_writes_begins_later(paths, page, monkeypatch):
    monkeypatch.setattr(service_module, "_RETRY_S", 0.02)
    accept = refuse_journal(monkeypatch)
    async with running(paths, page) as run:
        assert run.service.is_behind
        assert (await run.node.register(1))["error_code"] == "DB_NOT_READY"
        accept()
        while run.service.is_behind:
            await trio.lowlevel.checkpoint()
        assert (await run.node.register(1))["status"] == "ok"


@on_trio
async def test_a_change_between_journal_and_region_is_shown_at_the_next_start(paths, page, monkeypatch):
    async with running(paths, page) as run:
        await run.node.register(1)
        before = run.shown()
        accept = refuse_region(monkeypatch)
        assert (await run.node.register(2))["error_code"] == "DB_NOT_READY"
    accept()
    assert shown(paths) == before
    resets = []
    original = Environment.reset
    monkeypatch.setattr(Environment, "reset", lambda self, name: resets.append(name) or original(self, name))
    async with running(paths, page) as run:
        assert len(run.shown()[ILK.name]) == 2
    assert resets == []  # one change more is no reason to begin anew


@pytest.mark.parametrize("harm", ["deleted", "garbage", "journal deleted"])
@on_trio
async def test_a_lost_region_is_made_anew_from_the_journal(paths, page, monkeypatch, harm):
    monkeypatch.setattr(region_module, "_SLICE_OPS", 5)  # more than one slice
    async with running(paths, page) as run:
        for number in range(1, 12):
            await run.node.register(number)
        before = run.shown()
    place = paths.journals / "identity" if harm == "journal deleted" else paths.regions_disk
    if harm == "garbage":
        (place / "control.mdb").write_bytes(b"garbage" * 5000)
    else:
        for path in place.iterdir():
            path.unlink()
    async with running(paths, page) as run:
        after = run.shown()
        if harm == "journal deleted":  # the journal is the truth, also when it is empty
            assert after[ILK.name] == {}
            assert len(after[TENANT.name]) == 1
        else:
            assert after == before


@on_trio
async def test_a_journal_of_a_newer_program_is_left_alone(paths, page):
    async with running(paths, page) as run:
        await run.node.register(1)
    spec = JournalSpec(name="identity", kind="state", durability="durable")
    async with await Journal.opened(paths.journals / "identity", spec) as journal:
        await journal.append(b'{"v":2,"at_ms":1,"action":"X","ops":[]}')
    async with running(paths, page) as run:
        assert (await run.node.register(2))["error_code"] == "DB_NOT_READY"
        assert (await run.node.ask("ILK_LIST", {}, ADMIN))["count"] == 1
        assert "layout 2" in str([state.failure for state in run.service.journals()])


@on_trio
async def test_a_region_that_another_process_writes_is_a_conflict_at_start(paths, page):
    with Environment(SPEC, paths.regions_disk, (CONFIG,), page=page), pytest.raises(Conflict):
        async with running(paths, page):
            pass


@on_trio
async def test_a_region_of_another_journal_is_never_taken_for_its_own(paths, page):
    async with running(paths, page) as run:
        await run.node.register(1)
    for path in (paths.journals / "identity").iterdir():
        path.unlink()
    other = paths.lib / "other"
    async with running(Paths(other), page) as run:  # as long as the first, with other content
        await run.node.register(2)
    (other / "lib" / "journals" / "identity").rename(paths.journals / "identity.new")
    (paths.journals / "identity").rmdir()
    (paths.journals / "identity.new").rename(paths.journals / "identity")
    async with running(paths, page) as run:
        assert [record.handler_node for record in run.shown()[ILK.name].values()] == ["AI.n2@motherbee"]
