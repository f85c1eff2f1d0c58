from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.published import PublishedRegion, Publisher, PublishSchedule
from appliance.store.region import Environment
from appliance.store.region_table import RegionSpec
from appliance.wire.errors import Busy, NotFound, Unavailable
from tests.unit.store_regions import ALIAS, CONFIG, REGIONS, SMALL


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Environment]:
    with Environment(SMALL, tmp_path / "regions", REGIONS) as environment:
        yield environment


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "published" / "small.mdb"


def put(env: Environment, key: str, value: bytes = b"") -> None:
    with env.change("config") as txn:
        ALIAS.put(txn, key, value)


# --- schedule --------------------------------------------------------------------------------------


def test_nothing_is_due_before_something_changed() -> None:
    schedule = PublishSchedule()
    assert schedule.wait_s(100.0) is None
    schedule.changed()
    assert schedule.wait_s(100.0) == 0.0


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.0, 1.0), (0.001, 1.0), (0.05, 5.0), (2.0, 200.0)])
def test_at_most_once_a_second_and_one_percent_of_the_time(took_s: float, pause_s: float) -> None:
    schedule = PublishSchedule()
    schedule.changed()
    schedule.begin(100.0)
    schedule.finish(took_s, done=True)
    assert schedule.wait_s(100.0 + took_s) is None
    schedule.changed()
    assert schedule.wait_s(100.0) == pytest.approx(pause_s)
    assert schedule.wait_s(100.0 + pause_s) == 0.0


def test_a_change_during_a_copy_is_for_the_next_one() -> None:
    schedule = PublishSchedule()
    schedule.changed()
    schedule.begin(0.0)
    schedule.changed()
    assert schedule.wait_s(0.5) is None
    schedule.finish(0.001, done=True)
    assert schedule.wait_s(0.5) == 0.5


def test_a_failed_copy_is_tried_again_in_its_turn() -> None:
    schedule = PublishSchedule()
    schedule.changed()
    schedule.begin(0.0)
    schedule.finish(0.001, done=False)
    assert schedule.wait_s(0.25) == 0.75


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 0.2)), max_size=50))
def test_the_share_of_time_holds_whatever_comes(steps: list[tuple[float, float]]) -> None:
    schedule, now, spent, first = PublishSchedule(), 0.0, 0.0, None
    for pause_s, took_s in steps:
        now += pause_s
        schedule.changed()
        wait_s = schedule.wait_s(now)
        assert wait_s is not None
        now += wait_s
        if first is not None:
            assert spent <= 0.01 * (now - first) + 1e-6
        first = now if first is None else first
        schedule.begin(now)
        schedule.finish(took_s, done=True)
        spent += took_s
        now += took_s


# --- copies ----------------------------------------------------------------------------------------


def test_a_copy_is_complete_and_does_not_change(env: Environment, path: Path) -> None:
    publisher = Publisher(env, path, mode=0o644)
    put(env, "a", b"1")
    size = publisher.publish()
    assert size == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["small.mdb"]
    with PublishedRegion(path, REGIONS) as region:
        put(env, "a", b"2")
        assert region.get(ALIAS, "a") == b"1"
        assert region.generation("config") == 2
        publisher.publish()
        assert region.get(ALIAS, "a") == b"2"
        assert region.generation("config") == 3
    assert os.listdir(path.parent) == ["small.mdb"]
    assert publisher.statistics().copies == 2
    assert publisher.statistics().bytes_written == size + publisher.statistics().last_bytes


def test_an_iterator_stays_with_the_copy_it_began_with(env: Environment, path: Path) -> None:
    publisher = Publisher(env, path)
    for key in "abc":
        put(env, key)
    publisher.publish()
    with PublishedRegion(path) as region:
        rows = region.items(ALIAS)
        assert next(rows)[0] == "a"
        put(env, "d")
        publisher.publish()
        assert [key for key, _ in region.items(ALIAS)] == ["a", "b", "c", "d"]
        assert [key for key, _ in rows] == ["b", "c"]


def test_a_copy_that_is_not_there_yet(env: Environment, path: Path) -> None:
    with PublishedRegion(path, REGIONS) as region:
        with pytest.raises(NotFound):
            region.get(ALIAS, "a")
        put(env, "a", b"1")
        Publisher(env, path).publish()
        assert region.get(ALIAS, "a") == b"1"


def test_a_copy_of_another_schema_is_refused(env: Environment, path: Path) -> None:
    Publisher(env, path).publish()
    newer = RegionSpec(name="config", schema=9, tables=CONFIG.tables)
    with PublishedRegion(path, [newer]) as region, pytest.raises(Unavailable) as caught:
        region.get(ALIAS, "a")
    assert caught.value.code == "REGION_SCHEMA"


def test_what_a_killed_publisher_left_is_no_obstacle(env: Environment, path: Path) -> None:
    path.parent.mkdir()
    (path.parent / ".small.mdb.tmp").write_bytes(b"half")
    Publisher(env, path, gid=os.getgid()).publish()
    assert os.listdir(path.parent) == ["small.mdb"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_environment_that_is_too_large(env: Environment, path: Path) -> None:
    with pytest.raises(Busy) as caught:
        Publisher(env, path, max_bytes=1000).publish()
    assert caught.value.code == "REGION_TOO_LARGE"
    assert not path.exists()


def test_a_failed_copy_leaves_the_last_one(
    env: Environment, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(env, path)
    put(env, "a", b"1")
    publisher.publish()

    def full(fd: int) -> None:
        os.write(fd, b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(env, "copy_to", full)
    with pytest.raises(Unavailable) as caught:
        publisher.publish()
    assert caught.value.code == "STORAGE_FULL"
    assert os.listdir(path.parent) == ["small.mdb"]
    with PublishedRegion(path) as region:
        assert region.get(ALIAS, "a") == b"1"


# --- the loop --------------------------------------------------------------------------------------


class Copies:
    """An environment whose copies are counted and take no real time."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.times: list[float] = []
        self.fail = False

    def copy_to(self, fd: int) -> None:
        self.times.append(trio.from_thread.run_sync(trio.current_time))
        if self.fail:
            raise OSError(errno.ENOSPC, "full")
        self.env.copy_to(fd)

    def statistics(self):
        return self.env.statistics()


def run(env: Environment, path: Path, steps) -> list[float]:
    """Run ``steps`` beside a publisher, on a clock that jumps when all wait; returns times of copies."""
    source = Copies(env)
    # A copy of these takes milliseconds; a share of 1 keeps their real duration out of the schedule.
    publisher = Publisher(source, path, schedule=PublishSchedule(time_share=1.0))
    env.on_change(publisher.notify)
    clock = trio.testing.MockClock(autojump_threshold=0.05)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(publisher.run)
            await steps(source, publisher)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)
    return source.times


def test_it_publishes_at_start_and_then_only_after_changes(env: Environment, path: Path) -> None:
    async def steps(source: Copies, publisher: Publisher) -> None:
        assert len(source.times) == 1
        await trio.sleep(100)
        assert len(source.times) == 1
        put(env, "a", b"1")
        put(env, "a", b"2")
        await trio.sleep(10)
        assert len(source.times) == 2
        with PublishedRegion(path) as region:
            assert region.get(ALIAS, "a") == b"2"

    run(env, path, steps)


def test_many_changes_make_one_copy_a_second(env: Environment, path: Path) -> None:
    took: list[float] = []

    async def steps(source: Copies, publisher: Publisher) -> None:
        began = trio.current_time()
        for number in range(8):
            put(env, str(number))
            await trio.sleep(0.3)
        took.append(trio.current_time() - began)

    times = run(env, path, steps)
    assert 2 <= len(times) <= took[0] + 1


def test_a_failing_copy_is_counted_and_tried_again(env: Environment, path: Path) -> None:
    async def steps(source: Copies, publisher: Publisher) -> None:
        source.fail = True
        put(env, "a", b"1")
        await trio.sleep(2.5)
        assert publisher.statistics().failures >= 1
        assert "full" in publisher.statistics().last_error or "space" in publisher.statistics().last_error
        source.fail = False
        await trio.sleep(3)
        with PublishedRegion(path) as region:
            assert region.get(ALIAS, "a") == b"1"

    run(env, path, steps)
