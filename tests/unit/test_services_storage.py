"""SY.storage: figures of the turn journal, read beside its writer."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import msgspec
import pytest
import trio

from appliance.services.storage import StorageService, TurnShelf
from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.system.disk import RealDisk
from appliance.system.paths import Paths
from appliance.wire.envelope import Meta, build_message
from appliance.wire.errors import Unavailable

SPEC = JournalSpec(
    name="storage.turns",
    durability="relaxed",
    flush_interval_s=0.005,
    sync_interval_s=3600,
    mark_after_s=3600,
)
SYNCED = msgspec.structs.replace(SPEC, sync_interval_s=0.005, mark_after_s=0.01)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def until(shelf: TurnShelf, fits) -> object:
    with trio.fail_after(10):
        while True:
            figures = shelf.figures(now_ms())
            if fits(figures):
                return figures
            await trio.sleep(0.01)


def test_what_is_written_is_pending_until_it_is_on_the_medium(paths: Paths) -> None:
    async def body() -> None:
        shelf = TurnShelf(paths.journals)
        async with await Journal.opened(paths.journals / "storage.turns", SPEC) as journal:
            assert shelf.figures(now_ms()).processed_total == 0
            for number in range(3):
                await journal.append(b"turn %d" % number)
            figures = await until(shelf, lambda seen: seen.pending == 3)
            assert (figures.processed_total, figures.turns_total) == (0, 3)
            assert shelf.figures(now_ms() + 65_000).oldest_pending_age_s in (65, 66)
            assert shelf.figures(now_ms() - 65_000).oldest_pending_age_s == 0  # a clock that was set back
        figures = shelf.figures(now_ms())  # a clean stop syncs and says so
        assert (figures.pending, figures.processed_total, figures.oldest_pending_age_s) == (0, 3, 0)
        assert (figures.pending_with_error, figures.max_attempts) == (0, 0)

    trio.run(body)


def test_processed_goes_on_over_restarts_and_trimming(paths: Paths) -> None:
    small = msgspec.structs.replace(SYNCED, segment_bytes=4096, keep_bytes=8192)

    async def body() -> None:
        shelf = TurnShelf(paths.journals)
        for _ in range(2):
            async with await Journal.opened(paths.journals / "storage.turns", small) as journal:
                for _ in range(20):
                    await journal.append(bytes(1000))
                    await journal.sync()
        figures = shelf.figures(now_ms())
        assert (figures.pending, figures.processed_total) == (0, 40)
        assert figures.turns_total < 40

    trio.run(body)


def test_no_journal_is_not_ready_and_an_unreadable_one_unavailable(paths: Paths) -> None:
    with pytest.raises(Unavailable) as caught:
        TurnShelf(paths.journals).figures(0)
    assert caught.value.code == "STORAGE_NOT_READY"

    class Broken(RealDisk):
        def names(self, directory: Path) -> list[str]:
            raise OSError(errno.EIO, "I/O error")

    with pytest.raises(Unavailable) as caught:
        TurnShelf(paths.journals, Broken()).figures(0)
    assert caught.value.code == "STORAGE_METRICS_UNAVAILABLE"


class Node:
    uuid = "00000000-0000-4000-8000-0000000000aa"

    def __init__(self) -> None:
        self.questions, self.receiver = trio.open_memory_channel(10)
        self._answers, self.answered = trio.open_memory_channel(10)
        self.refuses: Exception | None = None

    async def send(self, message) -> None:
        if self.refuses is not None:
            raise self.refuses
        await self._answers.send(message)

    def put(self, verb: str = "STORAGE_METRICS", *, kind: str = "system", dst: str = "SY.storage@h") -> None:
        message = build_message(src="asker", dst=dst, meta=Meta(type=kind, msg=verb), trace_id="t")
        self.questions.send_nowait(message)


def test_it_answers_its_verb_and_no_other(paths: Paths) -> None:
    async def body() -> None:
        node, service = Node(), StorageService(paths)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.serve, node)
                node.put("OTHER")
                node.put(kind="user")
                node.put(dst="broadcast")
                node.put()
                answer = await node.answered.receive()
                assert (answer.meta.msg, answer.routing.trace_id) == ("STORAGE_METRICS_RESPONSE", "t")
                assert answer.json()["error_code"] == "STORAGE_NOT_READY"
                async with await Journal.opened(paths.journals / "storage.turns", SYNCED):
                    node.put()
                    answer = await node.answered.receive()
                assert answer.json() == {
                    "status": "ok",
                    "metrics": {
                        "pending": 0,
                        "pending_with_error": 0,
                        "oldest_pending_age_s": 0,
                        "processed_total": 0,
                        "max_attempts": 0,
                        "turns_total": 0,
                    },
                }
                node.refuses = Unavailable("closed")
                node.put()
                while service.statistics().answers_lost == 0:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        figures = service.statistics()
        assert (figures.asked, figures.failures, figures.answers_lost) == (3, 1, 1)

    trio.run(body)
