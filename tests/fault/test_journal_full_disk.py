"""A device that is really full, and one that is really read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from appliance.store.journal import Journal
from appliance.store.journal_types import GapReason, JournalSpec, JournalState
from appliance.wire.errors import Unavailable
from tests.fault.journal_kit import on_trio

pytestmark = pytest.mark.privileged


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], check=True)
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


async def fill(journal: Journal) -> int:
    """Append until the disk refuses; returns how many were acknowledged."""
    acked = 0
    with pytest.raises(Unavailable) as caught:
        while True:
            await journal.append(b"%07d" % acked * 1000)
            acked += 1
    assert caught.value.code == "STORAGE_FULL"
    return acked


async def refused(journal: Journal) -> bool:
    try:
        await journal.append(b"first")
    except Unavailable:
        return True
    return False


@on_trio
async def test_a_full_device_is_told_and_writing_resumes_when_there_is_space(small: Path) -> None:
    ballast = trio.Path(small / "ballast")
    await ballast.write_bytes(b"b" * 600_000)
    spec = JournalSpec(name="full", segment_bytes=128 << 10, retry_s=(0.02, 0.05))
    async with Journal.open(small / "j", spec) as journal:
        acked = await fill(journal)
        assert acked > 10
        assert journal.statistics().state == JournalState.FAILED
        batch = await journal.read(1)
        assert len(batch.records) == acked
        await trio.sleep(0.1)
        assert journal.statistics().resumes == 0  # it tries, and the device is still full
        assert journal.statistics().write_errors > 1
        await ballast.unlink()
        while await refused(journal):  # noqa: ASYNC110 -- it resumes by its own clock
            await trio.sleep(0.01)
        assert await journal.append(b"after") == acked + 2
    async with Journal.open(small / "j", spec) as journal:
        assert (journal.damages, journal.last_seq) == ((), acked + 2)
        records = (await journal.read(1)).records
        assert records == [b"%07d" % i * 1000 for i in range(acked)] + [b"first", b"after"]


@on_trio
async def test_a_log_makes_room_for_itself(small: Path) -> None:
    spec = JournalSpec(name="ring", segment_bytes=64 << 10, keep_bytes=512 << 10)
    async with Journal.open(small / "j", spec) as journal:
        for i in range(1000):
            await journal.append(b"%07d" % i * 1000)
        assert journal.statistics().trimmed_segments > 50
        batch = await journal.read(1)
        assert batch.gap is not None
        assert batch.gap.reason == GapReason.TRIMMED


@on_trio
async def test_an_image_that_does_not_fit_leaves_everything_as_it_was(small: Path) -> None:
    spec = JournalSpec(name="state", kind="state", segment_bytes=64 << 10)
    async with Journal.open(small / "j", spec) as journal:
        for i in range(100):
            await journal.append(b"%05d" % i * 1000)
        with pytest.raises(Unavailable):
            await journal.write_base(100, (b"x" * 10_000 for _ in range(100)))
        assert journal.statistics().first_seq == 1
        assert await journal.append(b"on") == 101
        await journal.write_base(101, [b"small"])
        assert journal.statistics().first_seq > 1
    assert not [p for p in (small / "j").iterdir() if p.name.endswith("tmp")]


@on_trio
async def test_a_read_only_device_opens_for_reading(small: Path) -> None:
    spec = JournalSpec(name="ro", retry_s=(0.02, 0.05))
    async with Journal.open(small / "j", spec) as journal:
        await journal.append(b"kept")
    await trio.run_process(["mount", "-o", "remount,ro", str(small)])
    async with Journal.open(small / "j", spec) as journal:
        assert journal.statistics().state == JournalState.FAILED
        assert (await journal.read(1)).records == [b"kept"]
        with pytest.raises(Unavailable) as caught:
            await journal.append(b"no")
        assert caught.value.code == "STORAGE_READ_ONLY"
        await trio.run_process(["mount", "-o", "remount,rw", str(small)])
        await journal.resume()
        assert await journal.append(b"again") == 2
