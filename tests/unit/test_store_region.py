from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from appliance.store.generations import SLOTS, GenerationPage
from appliance.store.region import Environment, write_in_slices
from appliance.store.region_admit import read_mark
from appliance.store.region_change import Change
from appliance.store.region_codec import RAW, U64, UTF8
from appliance.store.region_table import RegionSpec, Table
from appliance.wire.errors import Busy, Conflict, Damaged, Invalid, Misconfigured, Unavailable
from tests.unit.store_regions import (
    ALIAS,
    CONFIG,
    EVENT,
    IDENTITY,
    LOOSE,
    REGIONS,
    ROUTE,
    SMALL,
    SYNCED,
    Route,
)

CONFIG_SLOT, IDENTITY_SLOT = SLOTS["config"], SLOTS["identity"]


class Stopped:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return self.now_ms


@pytest.fixture
def page(tmp_path: Path) -> Iterator[GenerationPage]:
    made = GenerationPage.create(tmp_path / "generations")
    yield made
    made.close()


@pytest.fixture
def env(tmp_path: Path, page: GenerationPage) -> Iterator[Environment]:
    with Environment(SMALL, tmp_path, REGIONS, page=page, clock=Stopped()) as environment:
        yield environment


class LmdbThat:
    """An LMDB environment whose next commits fail; everything else is passed on."""

    def __init__(self, real: lmdb.Environment, error: lmdb.Error) -> None:
        self._real = real
        self.error: lmdb.Error | None = error

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def begin(self, write: bool = False) -> object:
        return FailingTxn(self._real.begin(write=True), self) if write else self._real.begin()


class FailingTxn:
    def __init__(self, real: lmdb.Transaction, env: LmdbThat) -> None:
        self._real, self._env = real, env

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def commit(self) -> None:
        if self._env.error is not None:
            self._real.abort()
            raise self._env.error
        self._real.commit()


def failing(number: int) -> lmdb.Error:
    kind = type("SystemsError", (lmdb.Error,), {"code": number})
    return kind("mdb_txn_commit", 0)


# --- a new environment -----------------------------------------------------------------------------------


def test_a_new_environment_is_empty_and_asks_for_a_rebuild(env: Environment, page: GenerationPage) -> None:
    assert not env.opened.kept
    assert env.opened.reason == "new"
    assert env.opened.rebuild == {"config", "identity"}
    assert env.opened.rebuild_needed
    row = env.row("config")
    assert row is not None
    assert (row.generation, row.schema, row.applied_seq, row.complete) == (1, 1, 0, False)
    assert (row.writer_pid, row.started_at_ms) == (os.getpid(), 1_800_000_000_000)
    assert row.tables == ("route", "alias", "member")
    assert page.get(CONFIG_SLOT) == page.get(IDENTITY_SLOT) == 1
    assert not env.ready("config")
    assert env.row("nobody") is None
    assert env.generation("nobody") == 0


def test_what_was_rebuilt_is_kept_over_a_restart(tmp_path: Path) -> None:
    for spec in (SYNCED, LOOSE, SMALL):
        with Environment(spec, tmp_path, REGIONS) as env:
            with env.change("config", applied_seq=3) as txn:
                ROUTE.put(txn, 1, Route(prefix="AI."))
            env.finish_rebuild("config", applied_seq=7)
            assert env.ready("config")
            before = env.row("config")
        with Environment(spec, tmp_path, REGIONS) as env:
            assert env.opened.kept
            assert env.opened.rebuild == {"identity"}
            row = env.row("config")
            assert row is not None
            assert before is not None
            assert (row.generation, row.applied_seq, row.complete) == (before.generation, 7, True)
            assert env.applied_seq("config") == 7
            assert env.get(ROUTE, 1) == Route(prefix="AI.")


def test_rows_seen_by_readers_are_those_in_memory(env: Environment) -> None:
    from appliance.store.region_table import REGION_TABLE

    with env.change("config", applied_seq=9) as txn:
        ALIAS.put(txn, "a", b"1")
    assert env.get(REGION_TABLE, "config") == env.row("config")


# --- changes ---------------------------------------------------------------------------------------------


def test_a_change_moves_rows_sequence_and_generation_together(env: Environment, page: GenerationPage) -> None:
    with env.change("config", applied_seq=5) as txn:
        ALIAS.put(txn, "a", b"1")
        assert page.get(CONFIG_SLOT) == 1
        assert env.applied_seq("config") == 0
        assert env.get(ALIAS, "a") is None
    assert (page.get(CONFIG_SLOT), env.generation("config"), env.applied_seq("config")) == (2, 2, 5)
    assert (page.get(IDENTITY_SLOT), env.applied_seq("identity")) == (1, 0)


def test_a_change_that_fails_moves_nothing(env: Environment, page: GenerationPage) -> None:
    with pytest.raises(ZeroDivisionError), env.change("config", applied_seq=5) as txn:
        ALIAS.put(txn, "a", b"1")
        raise ZeroDivisionError
    assert env.get(ALIAS, "a") is None
    assert (page.get(CONFIG_SLOT), env.applied_seq("config")) == (1, 0)
    assert env.statistics().aborts == 1
    with env.change("config") as txn:
        ALIAS.put(txn, "a", b"2")
    assert env.get(ALIAS, "a") == b"2"


def test_without_touched_rows_only_the_sequence_moves(env: Environment, page: GenerationPage) -> None:
    with env.change("config", applied_seq=5):
        pass
    assert (page.get(CONFIG_SLOT), env.applied_seq("config")) == (1, 5)
    with env.change("config"):
        pass
    assert page.get(CONFIG_SLOT) == 1


def test_one_change_of_two_regions(env: Environment, page: GenerationPage) -> None:
    with env.change("config", "identity", applied_seq=4) as txn:
        EVENT.put(txn, 1, b"e")
    assert (page.get(CONFIG_SLOT), page.get(IDENTITY_SLOT)) == (2, 2)
    assert (env.applied_seq("config"), env.applied_seq("identity")) == (4, 4)


def test_the_sequence_never_goes_back(env: Environment) -> None:
    with env.change("config", applied_seq=5):
        pass
    with pytest.raises(Conflict) as caught, env.change("config", applied_seq=4):
        pass
    assert caught.value.code == "REGION_SEQ"
    with env.change("config", applied_seq=5):
        pass


def test_changes_are_not_nested(env: Environment) -> None:
    with env.change("config"):
        with pytest.raises(Conflict) as caught, env.change("identity"):
            pass
        assert caught.value.code == "REGION_CHANGING"
        with pytest.raises(Conflict):
            env.close()
    with env.change("identity"):
        pass


def test_an_unknown_region(env: Environment) -> None:
    with pytest.raises(Invalid), env.change("opa"):
        pass


def test_a_change_that_is_never_entered_holds_nothing(env: Environment) -> None:
    env.change("config")
    with env.change("config") as txn:
        ALIAS.put(txn, "a", b"1")


def test_errors_of_lmdb_itself_are_translated(env: Environment) -> None:
    with pytest.raises(Invalid), env.change("config") as txn:
        txn.raw.put(b"", b"", db=txn.dbs["alias"])
    with pytest.raises(Conflict) as caught, env.change("config") as txn:
        with pytest.raises(Busy):
            ALIAS.put(txn, "big", bytes(4 << 20))
        ALIAS.put(txn, "next", b"")
    assert caught.value.code == "REGION_TXN_BROKEN"
    with env.change("config") as txn:
        ALIAS.put(txn, "works", b"")


def test_listeners_hear_of_raised_generations_only(env: Environment) -> None:
    heard: list[frozenset[str]] = []
    env.on_change(heard.append)
    with env.change("config", applied_seq=1):
        pass
    with env.change("config", "identity") as txn:
        ALIAS.put(txn, "a", b"")
    with env.change("config", quiet=True) as txn:
        ALIAS.put(txn, "b", b"")
    assert heard == [{"config", "identity"}]


def test_a_quiet_change_is_raised_by_the_next_one(env: Environment, page: GenerationPage) -> None:
    with env.change("config", quiet=True) as txn:
        ALIAS.put(txn, "a", b"")
    assert page.get(CONFIG_SLOT) == 1
    assert env.get(ALIAS, "a") == b""
    with env.change("config"):
        pass
    assert page.get(CONFIG_SLOT) == 2
    with env.change("config"):
        pass
    assert page.get(CONFIG_SLOT) == 2


def put_event(txn: Change, number: int) -> None:
    EVENT.put(txn, number, b"e")


def test_a_large_change_in_slices(env: Environment, page: GenerationPage) -> None:
    seen = [
        (done, env.applied_seq("identity"), page.get(IDENTITY_SLOT), env.count(EVENT))
        for done in write_in_slices(env, ["identity"], range(450), put_event, applied_seq=450)
    ]
    assert seen == [(200, 0, 1, 200), (400, 0, 1, 400), (450, 450, 2, 450)]


def test_slices_of_nothing_still_move_the_sequence(env: Environment) -> None:
    assert list(write_in_slices(env, ["identity"], [], put_event, applied_seq=8)) == [0]
    assert env.applied_seq("identity") == 8


def test_slices_of_an_exact_multiple(env: Environment) -> None:
    assert list(write_in_slices(env, ["identity"], range(6), put_event, limit=3)) == [3, 6]


def test_an_interrupted_large_change_is_raised_by_the_next(env: Environment, page: GenerationPage) -> None:
    next(iter(write_in_slices(env, ["identity"], range(450), put_event, applied_seq=450)))
    assert (env.applied_seq("identity"), page.get(IDENTITY_SLOT)) == (0, 1)
    with env.change("identity", applied_seq=1):
        pass
    assert page.get(IDENTITY_SLOT) == 2


# --- rebuild and schema ----------------------------------------------------------------------------------


def test_a_reset_region_is_incomplete_until_it_is_finished(env: Environment, page: GenerationPage) -> None:
    with env.change("config", applied_seq=9) as txn:
        ALIAS.put(txn, "a", b"")
    env.finish_rebuild("config")
    assert (env.applied_seq("config"), env.ready("config")) == (9, True)
    before = page.get(CONFIG_SLOT)
    env.reset("config")
    assert (env.count(ALIAS), env.applied_seq("config"), env.ready("config")) == (0, 0, False)
    assert page.get(CONFIG_SLOT) > before
    with env.change("config", applied_seq=2) as txn:
        ALIAS.put(txn, "b", b"")
    assert not env.ready("config")
    env.finish_rebuild("config", applied_seq=3)
    assert (env.applied_seq("config"), env.ready("config")) == (3, True)


def test_a_half_rebuilt_region_is_emptied_at_the_next_start(tmp_path: Path) -> None:
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        env.finish_rebuild("identity")
        with env.change("config", applied_seq=2) as txn:
            ALIAS.put(txn, "half", b"")
        before = env.generation("config")
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        assert env.opened.rebuild == {"config"}
        assert (env.count(ALIAS), env.applied_seq("config")) == (0, 0)
        assert env.generation("config") > before


def test_another_schema_drops_the_region_and_leaves_the_others(tmp_path: Path, page: GenerationPage) -> None:
    with Environment(SYNCED, tmp_path, REGIONS, page=page) as env:
        with env.change("config", "identity", applied_seq=5) as txn:
            ALIAS.put(txn, "old", b"layout")
            EVENT.put(txn, 1, b"kept")
        for region in ("config", "identity"):
            env.finish_rebuild(region)
        before = env.generation("config")
    renamed = Table("route2", U64, RAW)
    newer = RegionSpec(name="config", schema=2, tables=(renamed, ALIAS))
    with Environment(SYNCED, tmp_path, (newer, IDENTITY), page=page) as env:
        assert env.opened.kept
        assert env.opened.rebuild == {"config"}
        assert (env.count(ALIAS), env.applied_seq("config")) == (0, 0)
        assert page.get(CONFIG_SLOT) == env.generation("config") > before
        assert (env.get(EVENT, 1), env.applied_seq("identity")) == (b"kept", 5)
        with env.read() as txn:
            assert sorted(key for key, _ in txn.raw.cursor()) == [
                b"alias",
                b"event",
                b"region",
                b"route2",
            ]


def test_a_table_that_became_dupsort_without_a_new_schema_is_rebuilt(tmp_path: Path) -> None:
    with Environment(SYNCED, tmp_path, [CONFIG]) as env:
        env.finish_rebuild("config")
    many = Table("alias", UTF8, RAW, dupsort=True)
    with Environment(SYNCED, tmp_path, [RegionSpec(name="config", schema=1, tables=(many,))]) as env:
        assert env.opened.rebuild == {"config"}
        with env.change("config") as txn:
            many.put(txn, "a", b"1")
            many.put(txn, "a", b"2")
        assert env.values(many, "a") == [b"1", b"2"]


def test_a_new_table_of_a_known_region_is_made(tmp_path: Path) -> None:
    with Environment(SYNCED, tmp_path, [RegionSpec(name="config", schema=1, tables=(ALIAS,))]) as env:
        env.finish_rebuild("config")
    with Environment(SYNCED, tmp_path, [CONFIG]) as env:
        assert not env.opened.rebuild_needed
        with env.change("config") as txn:
            ROUTE.put(txn, 1, Route(prefix="x"))


@pytest.mark.parametrize(
    "regions",
    [
        (CONFIG, CONFIG),
        (CONFIG, RegionSpec(name="opa", schema=1, tables=(ALIAS,))),
        (RegionSpec(name="opa", schema=1, tables=(Table("region", UTF8, RAW),)),),
        (RegionSpec(name="opa", schema=1, tables=tuple(Table(f"t{n}", UTF8, RAW) for n in range(64))),),
        (RegionSpec(name="nobody", schema=1, tables=()),),
    ],
)
def test_contradicting_declarations(
    tmp_path: Path, page: GenerationPage, regions: tuple[RegionSpec, ...]
) -> None:
    with pytest.raises(Misconfigured):
        Environment(SMALL, tmp_path, regions, page=page)
    with Environment(SMALL, tmp_path, REGIONS, page=page):
        pass


def test_the_generation_goes_on_when_the_file_is_lost(tmp_path: Path, page: GenerationPage) -> None:
    with Environment(SMALL, tmp_path, REGIONS, page=page) as env:
        for number in range(5):
            with env.change("config") as txn:
                ROUTE.put(txn, number, Route(prefix=""))
        lost = env.path
    assert page.get(CONFIG_SLOT) == 6
    lost.unlink()
    with Environment(SMALL, tmp_path, REGIONS, page=page) as env:
        assert env.generation("config") == page.get(CONFIG_SLOT) == 7


def test_the_page_learns_a_kept_generation_after_a_reboot(tmp_path: Path) -> None:
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        env.finish_rebuild("config")
        for number in range(5):
            with env.change("config") as txn:
                ROUTE.put(txn, number, Route(prefix=""))
        before = env.generation("config")
    page = GenerationPage.create(tmp_path / "generations")
    with Environment(SYNCED, tmp_path, REGIONS, page=page):
        assert page.get(CONFIG_SLOT) == before
    page.close()


# --- limits and failures ---------------------------------------------------------------------------------


def fill(env: Environment, size: int) -> int:
    """Put values of ``size`` bytes until the environment refuses; returns how many it took."""
    number = 0
    with pytest.raises(Busy) as caught:
        while True:
            with env.change("config") as txn:
                ALIAS.put(txn, f"{number:04}", bytes(size))
            number += 1
    assert caught.value.code == "REGION_FULL"
    assert caught.value.retry_after_s > 0
    return number


def test_a_full_map_is_busy_and_urgent_changes_still_work(env: Environment) -> None:
    number = fill(env, 20_000)
    assert env.count(ALIAS) == number
    with pytest.raises(Busy), env.change("config") as txn:
        ALIAS.put(txn, "more", bytes(20_000))
    assert env.statistics().refused_full == 2
    assert env.statistics().used_bytes < SMALL.map_bytes * 15 // 16
    with env.change("config", applied_seq=1):
        pass
    with env.change("config", urgent=True) as txn:
        ALIAS.put(txn, "audit", bytes(20_000))
        for old in range(number // 2):
            ALIAS.delete(txn, f"{old:04}")
    for again in range(number // 4):
        with env.change("config") as txn:
            ALIAS.put(txn, f"again {again}", bytes(20_000))


def test_one_large_change_cannot_take_the_reserve(env: Environment) -> None:
    fill(env, 100_000)
    with pytest.raises(Busy), env.change("config") as txn:
        for number in range(15):
            EVENT.put(txn, number, bytes(10_000))
    assert env.count(EVENT) == 0
    with env.change("identity", urgent=True) as txn:
        EVENT.put(txn, 1, bytes(10_000))


def test_a_value_larger_than_the_map(env: Environment) -> None:
    with pytest.raises(Busy) as caught, env.change("config") as txn:
        ALIAS.put(txn, "a", bytes(4 << 20))
    assert caught.value.code == "REGION_FULL"
    with env.change("config") as txn:
        ALIAS.put(txn, "a", b"small")


def test_a_full_medium_fails_the_change_and_not_the_environment(env: Environment) -> None:
    real = env._env
    assert real is not None
    fake = env._env = LmdbThat(real, failing(errno.ENOSPC))  # type: ignore[assignment]
    with pytest.raises(Unavailable) as caught, env.change("config", applied_seq=3) as txn:
        ALIAS.put(txn, "a", b"")
    assert caught.value.code == "STORAGE_FULL"
    assert (env.applied_seq("config"), env.generation("config")) == (0, 1)
    fake.error = None  # type: ignore[attr-defined]
    with env.change("config", applied_seq=3) as txn:
        ALIAS.put(txn, "a", b"")
    assert env.applied_seq("config") == 3
    assert env.statistics().commit_errors == 1


def test_a_failed_sync_is_never_trusted(tmp_path: Path) -> None:
    env = Environment(SYNCED, tmp_path, REGIONS)
    for region in ("config", "identity"):
        env.finish_rebuild(region)
    real = env._env
    assert real is not None
    fake = env._env = LmdbThat(real, failing(errno.EIO))  # type: ignore[assignment]
    with pytest.raises(Unavailable) as caught, env.change("config") as txn:
        ALIAS.put(txn, "a", b"")
    assert caught.value.code == "STORAGE_FAILED"
    fake.error = None  # type: ignore[attr-defined]
    with pytest.raises(Unavailable), env.change("config"):
        pass
    assert env.get(ALIAS, "a") is None
    env.close()
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        assert not env.opened.kept
        assert env.opened.set_aside is not None
        assert env.opened.set_aside.exists()
        assert env.opened.rebuild == {"config", "identity"}


def test_a_failed_sync_at_the_end_is_not_a_clean_stop(tmp_path: Path) -> None:
    env = Environment(LOOSE, tmp_path, REGIONS)
    for region in REGIONS:
        env.finish_rebuild(region.name)

    class Unsynced(LmdbThat):
        def sync(self, force: bool) -> None:
            raise failing(errno.ENOSPC)

    real = env._env
    assert real is not None
    env._env = Unsynced(real, failing(errno.EIO))  # type: ignore[assignment]
    env.close()
    with Environment(LOOSE, tmp_path, REGIONS) as env:
        assert env.opened.reason.startswith("damaged: loose: No space left")
        assert not env.opened.kept


def test_damage_seen_while_running_sets_the_file_aside_at_the_next_start(tmp_path: Path) -> None:
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        for region in ("config", "identity"):
            env.finish_rebuild(region)
        with env.change("config") as txn:
            Table("route", U64, RAW).put(txn, 1, b"\xff")
        with pytest.raises(Damaged):
            env.get(ROUTE, 1)
        assert env.get(ALIAS, "still readable") is None
        mark = read_mark(tmp_path / "synced.mark")
        assert mark is not None
        assert mark.suspect is not None
        env.maintain()
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        assert env.opened.reason.startswith("damaged: table route")
        assert env.opened.set_aside == tmp_path / "synced.damaged-1"
        assert env.count(ROUTE) == 0


# --- upkeep ----------------------------------------------------------------------------------------------


def test_a_closed_environment_refuses_everything(tmp_path: Path) -> None:
    env = Environment(SMALL, tmp_path, REGIONS)
    env.close()
    env.close()
    for call in (env.read, env.maintain, env.statistics, lambda: env.get(ALIAS, "a"), lambda: env.copy_to(1)):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "REGION_CLOSED"
    with pytest.raises(Unavailable), env.change("config"):
        pass


def test_marks_over_a_life(tmp_path: Path) -> None:
    env = Environment(SYNCED, tmp_path, REGIONS)
    mark = read_mark(tmp_path / "synced.mark")
    assert mark is not None
    assert (mark.clean, mark.opens, mark.suspect) == (False, 1, None)
    env.maintain()
    mark = read_mark(tmp_path / "synced.mark")
    assert mark is not None
    assert (mark.clean, mark.opens) == (False, 0)
    env.close()
    mark = read_mark(tmp_path / "synced.mark")
    assert mark is not None
    assert (mark.clean, mark.opens) == (True, 0)


def test_upkeep_leaves_alone_what_nothing_was_committed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    maintain = Environment.maintain
    monkeypatch.setattr(Environment, "maintain", lambda env: (done.append("x"), maintain(env))[1])
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        for _ in range(3):
            env.upkeep()
        assert len(done) == 1  # once after the opening, which says that it went well
        with env.change("config") as txn:
            ALIAS.put(txn, "a", b"1")
        for _ in range(3):
            env.upkeep()
        assert len(done) == 2


def test_closing_waits_for_a_copy_but_not_for_ever(env: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.store.region._COPY_WAIT_S", 0.01)
    with env._copying, pytest.raises(Busy):
        env.close()
    assert env.get(ALIAS, "a") is None


def test_statistics(tmp_path: Path) -> None:
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        for number in range(3):
            with env.change("config") as txn:
                ROUTE.put(txn, number, Route(prefix="x"))
                ROUTE.put(txn, 100 + number, Route(prefix="x"))
        reader = env.read()
        with env.change("config") as txn:
            ROUTE.put(txn, 1, Route(prefix="y"))
        figures = env.statistics()
        reader.raw.abort()
        assert (figures.name, figures.map_bytes) == ("synced", 64 << 20)
        assert (figures.commits, figures.rows_changed, figures.aborts) == (4, 7, 0)
        assert figures.used_bytes >= 2 * 4096
        assert figures.bytes_exact
        assert figures.bytes_written >= 4 * 4096  # each commit rewrites whole pages
        assert (figures.readers, figures.reader_lag_txns) == (1, 1)
        assert env.maintain().readers_cleared == 0
        assert env.statistics().reader_lag_txns == 0


def test_a_copy_is_a_whole_environment(env: Environment, tmp_path: Path) -> None:
    with env.change("config") as txn:
        ALIAS.put(txn, "a", b"1")
    target = tmp_path / "copy.mdb"
    with target.open("wb") as file:
        env.copy_to(file.fileno())
    copy = lmdb.open(str(target), subdir=False, readonly=True, lock=False, max_dbs=8)
    with copy.begin() as txn:
        assert sorted(key for key, _ in txn.cursor()) == [b"alias", b"event", b"member", b"region", b"route"]
    copy.close()
