"""Logs for watchers: which node, which lines, what a slow one misses, and the end of everything."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from appliance.services.admin.statistics import Counts
from appliance.services.admin.streams import LOG_LINES, NodeLogs, Streams, _overlap
from appliance.system.paths import Paths
from appliance.wire.errors import Busy, Invalid, NotFound


async def no_router():
    raise OSError("no router here")


def make(tmp_path):
    paths = Paths(tmp_path)
    folder = paths.node_logs / "AI.x@m"
    folder.mkdir(parents=True)
    (folder / "0.log").write_text("one\ntwo\nthree\n")
    counts = Counts()
    logs = NodeLogs("m", paths)
    return folder / "0.log", logs, Streams(logs, no_router, paths, counts), counts


def run(body):
    async def bounded():
        with trio.fail_after(10):
            await body()

    trio.run(bounded)


def test_the_tail_of_a_known_node(tmp_path):
    _, logs, _, _ = make(tmp_path)

    async def dropped(name):
        assert name == "AI.x@m"
        return 7

    counted = NodeLogs("m", Paths(tmp_path), dropped_bytes=dropped)
    assert trio.run(logs.tail, "AI.x", 2) == {"lines": ["two", "three"], "dropped_bytes": 0}
    assert trio.run(counted.tail, "AI.x@m", 1) == {"lines": ["three"], "dropped_bytes": 7}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("AI.unknown", NotFound),
        ("AI.x@elsewhere", NotFound),
        ("../../etc", Invalid),
        ("..@m", Invalid),
        ("a/b@m", Invalid),
        ("", Invalid),
    ],
)
def test_whose_log_is_not_read(tmp_path, name, error):
    _, logs, _, _ = make(tmp_path)
    with pytest.raises(error):
        trio.run(logs.tail, name, 1)


def test_following_begins_with_the_tail_and_loses_nothing(tmp_path):
    log, _, streams, counts = make(tmp_path)

    async def body():
        async with streams.log("AI.x", 1) as source:
            assert await source.next_event(5) == b"three"
            with log.open("a") as file:
                file.write("four\nfive\n")
            assert await source.next_event(5) == b"four"
            assert await source.next_event(5) == b"five"
            assert await source.next_event(0.01) is None
            assert counts.streams_open == 1
        assert counts.streams_open == 0

    run(body)


def test_a_slow_watcher_misses_lines_and_they_are_counted(tmp_path):
    log, _, streams, counts = make(tmp_path)
    log.write_text("".join(f"{number}\n" for number in range(LOG_LINES + 10)))

    async def body():
        async with streams.log("AI.x", LOG_LINES + 10) as source:
            assert await source.next_event(5) == b"0"
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert counts.log_dropped > 0

    run(body)


def test_streams_end_when_the_service_stops(tmp_path):
    _, _, streams, _ = make(tmp_path)

    async def body():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(streams.run)
            async with streams.log("AI.x", 0) as source:
                await trio.testing.wait_all_tasks_blocked(0.02)
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True), pytest.raises(EOFError):
                    while True:
                        await source.next_event(5)

    run(body)


def test_logs_are_watched_by_so_many_only(tmp_path):
    _, _, streams, _ = make(tmp_path)

    async def body():
        opened = [streams.log("AI.x", 0) for _ in range(16)]
        for one in opened:
            await one.__aenter__()
        with pytest.raises(Busy):
            async with streams.log("AI.x", 0):
                pass
        for one in reversed(opened):
            await one.__aexit__(None, None, None)

    run(body)


def test_overlap():
    assert _overlap(["a", "b"], ["b", "c"]) == 1
    assert _overlap(["a", "b"], ["a", "b"]) == 2
    assert _overlap(["a"], ["b"]) == 0
    assert _overlap([], ["b"]) == 0
