"""Who may write on a disk that fills up, and when the reserve is released and made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.reserve import DISK_FULL, NO_RESERVE, Reserve, ReserveRule, Space, measure
from appliance.testing.clock import FakeClock
from appliance.wire.errors import Unavailable

MIB = 1 << 20
WANTED = 8 * MIB


class Disk:
    """A file system of ``total`` bytes, of which strangers use ``used``; the reserve's file is a real one."""

    def __init__(self, file: Path, total: int) -> None:
        self.file, self.total, self.used = file, total, 0
        self.looks = 0
        self.failure: OSError | None = None

    def measured(self, file: Path) -> Space | None:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        held = WANTED if file.exists() else 0
        return Space(max(self.total - self.used - held, 0), held)


class Journal:
    """One that failed on the full disk."""

    def __init__(self, *, works: bool = True) -> None:
        self.is_full = True
        self.works = works
        self.attempts = 0

    async def resume(self) -> None:
        await trio.lowlevel.checkpoint()
        self.attempts += 1
        if not self.works:
            raise Unavailable("still full")
        self.is_full = False


class Box:
    """A reserve on a disk of 100 MiB, with a clock."""

    def __init__(self, folder: Path, wanted: int = WANTED) -> None:
        self.file = folder / "reserve"
        self.disk = Disk(self.file, 100 * MIB)
        self.clock = FakeClock()
        self.reserve = Reserve(self.file, wanted, now=self.clock.monotonic, measured=self.disk.measured)

    def hold(self) -> None:
        self.file.write_bytes(b"")

    def leave(self, size_bytes: int) -> None:
        """Strangers use everything but so much, the reserve's file not counted."""
        held = WANTED if self.file.exists() else 0
        self.disk.used = self.disk.total - held - size_bytes
        self.clock.advance(1)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


# --- the rule ----------------------------------------------------------------------------------------------


@given(st.integers(0, 64 * MIB), st.lists(st.integers(0, 256 * MIB), max_size=20), st.booleans())
def test_releasing_never_changes_who_may_write(wanted: int, frees: list[int], held: bool) -> None:
    """The room is the same with the file and without it, so planes that look before and after agree."""
    one, other = ReserveRule(wanted), ReserveRule(wanted)
    for free in frees:
        space = Space(free, wanted if held else 0)
        one.see(space)
        other.see(Space(space.room_bytes, 0))
        assert one.read_only == other.read_only
        assert not (one.makes(space) and one.releases(space))
        if not one.read_only and held:  # whoever may write has room beyond the reserve
            assert free >= wanted // 4


def test_between_stop_and_go_it_stays_as_it_was() -> None:
    rule = ReserveRule(WANTED)
    seen = [rule.see(Space(free * MIB, WANTED)) for free in (4, 3, 2, 1, 2, 3, 4, 3)]
    assert seen == [False, False, False, True, False, False, True, False]


def test_the_reserve_is_made_when_there_is_room_beside_it() -> None:
    rule = ReserveRule(WANTED)
    assert rule.makes(Space(12 * MIB, 0))
    assert not rule.makes(Space(12 * MIB - 1, 0))
    assert not rule.makes(Space(12 * MIB, WANTED))
    rule.see(Space(9 * MIB, 0))
    assert rule.read_only
    assert not rule.makes(Space(11 * MIB, 0))


def test_without_a_reserve_nobody_is_refused() -> None:
    rule = ReserveRule(0)
    assert not rule.see(Space(0, 0))
    assert not rule.releases(Space(0, 0))
    assert not rule.makes(Space(MIB, 0))


# --- ordinary writers --------------------------------------------------------------------------------------


def test_ordinary_writers_are_refused_with_reason_and_remedy(box: Box) -> None:
    box.hold()
    box.reserve.check()
    box.leave(MIB)
    with pytest.raises(Unavailable, match="the disk is full, 1 MiB free") as caught:
        box.reserve.check()
    assert caught.value.code == DISK_FULL
    assert "Remove" in caught.value.remedy
    assert box.reserve.reasons() == ("read-only: the disk is full, 1 MiB free",)
    assert box.reserve.facts() == {"read_only": True, "disk_free_bytes": MIB, "reserve_bytes": WANTED}
    figures = box.reserve.statistics()
    assert (figures.refused, figures.changes, figures.read_only) == (1, 1, True)


def test_they_look_once_a_second(box: Box) -> None:
    for _ in range(50):
        box.reserve.check()
    assert box.disk.looks == 1
    box.clock.advance(0.99)
    box.reserve.check()
    assert box.disk.looks == 1
    box.clock.advance(0.01)
    box.reserve.check()
    assert box.disk.looks == 2


def test_who_writes_much_looks_sooner(box: Box) -> None:
    box.reserve.check()
    box.leave(1 * MIB)
    box.clock.advance(-0.0)
    box.reserve.look()
    box.leave(30 * MIB)
    box.reserve.look()
    looks = box.disk.looks
    box.reserve.spend(5 * MIB)  # a quarter of what lies above the limit
    box.reserve.check()
    assert box.disk.looks == looks
    box.reserve.spend(MIB)
    box.reserve.check()
    assert box.disk.looks == looks + 1


def test_writing_goes_on_when_there_is_room_again(box: Box) -> None:
    box.leave(0)
    assert box.reserve.is_full()
    box.leave(11 * MIB)
    assert box.reserve.is_full()
    box.leave(12 * MIB)
    assert not box.reserve.is_full()
    assert box.reserve.reasons() == ()


def test_a_disk_that_does_not_say_refuses_nobody(box: Box) -> None:
    box.disk.failure = OSError(errno.EIO, "no")
    box.reserve.check()
    assert box.reserve.statistics().failures == 1


# --- essential writers -------------------------------------------------------------------------------------


def test_what_is_essential_releases_the_reserve_only_when_it_is_needed(box: Box) -> None:
    box.hold()
    box.leave(2 * MIB)
    trio.run(box.reserve.make_way)
    assert box.file.exists()
    box.leave(2 * MIB - 1)
    trio.run(box.reserve.make_way)
    assert not box.file.exists()
    assert box.reserve.statistics().released == 1
    assert box.reserve.space == Space(10 * MIB - 1, 0)
    assert box.reserve.is_full()  # for the others nothing has changed
    trio.run(box.reserve.make_way)
    assert box.reserve.statistics().released == 1


def test_journals_that_failed_try_again_once_a_second(box: Box) -> None:
    box.hold()
    box.leave(0)
    well, ill = Journal(), Journal(works=False)
    trio.run(box.reserve.make_way, ill, well)
    assert (well.is_full, ill.attempts) == (False, 1)
    trio.run(box.reserve.make_way, ill)
    assert ill.attempts == 1
    box.clock.advance(1)
    trio.run(box.reserve.make_way, ill)
    assert ill.attempts == 2


def test_a_journal_does_not_try_while_there_is_nothing_at_all(box: Box) -> None:
    box.leave(0)
    journal = Journal()
    trio.run(box.reserve.make_way, journal)
    assert journal.attempts == 0


def test_a_file_that_cannot_be_removed_is_told_and_nobody_fails(box: Box, capfd) -> None:
    box.file.mkdir()
    box.disk.measured = lambda file: Space(0, WANTED)
    box.reserve._measured = box.disk.measured
    trio.run(box.reserve.make_way)
    assert box.reserve.statistics().failures == 1
    assert "RESERVE_NOT_RELEASED" in capfd.readouterr().err


# --- keeping it --------------------------------------------------------------------------------------------


async def keep(reserve: Reserve, turns: int = 1) -> None:
    """Let the keeping task come to its sleep."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reserve.keep)
        for _ in range(turns):
            await trio.testing.wait_all_tasks_blocked(0.02)
        nursery.cancel_scope.cancel()


def test_the_file_holds_real_space_and_nothing_of_it_is_written(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "reserve", MIB)
    trio.run(keep, reserve)
    seen = (tmp_path / "reserve").stat()
    assert (seen.st_size, seen.st_mode & 0o777) == (MIB, 0o600)
    assert seen.st_blocks * 512 >= MIB
    space = measure(tmp_path / "reserve")
    assert space is not None
    assert space.held_bytes >= MIB
    assert reserve.statistics().made == 1
    trio.run(keep, reserve)
    assert reserve.statistics().made == 1


def test_it_is_not_made_on_a_full_disk_and_made_again_later(box: Box) -> None:
    box.leave(11 * MIB)
    trio.run(keep, box.reserve)
    assert not box.file.exists()
    box.leave(12 * MIB)
    trio.run(keep, box.reserve)
    assert box.file.exists()


def test_a_smaller_setting_takes_effect(tmp_path: Path) -> None:
    trio.run(keep, Reserve(tmp_path / "reserve", 4 * MIB))
    trio.run(keep, Reserve(tmp_path / "reserve", MIB))
    assert (tmp_path / "reserve").stat().st_size == MIB
    trio.run(keep, Reserve(tmp_path / "reserve", 0))
    assert not (tmp_path / "reserve").exists()


@pytest.mark.parametrize(
    ("number", "again"), [(errno.ENOSPC, True), (errno.EOPNOTSUPP, False), (errno.EROFS, True)]
)
def test_where_it_cannot_be_made_it_is_told_once(
    box: Box, monkeypatch: pytest.MonkeyPatch, capfd, number: int, again: bool
) -> None:
    attempts: list[int] = []

    def refuse(fd: int, offset: int, size: int) -> None:
        attempts.append(size)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    trio.run(keep, box.reserve)
    trio.run(keep, box.reserve)
    assert attempts == [WANTED] * (2 if again else 1)
    assert capfd.readouterr().err.count("RESERVE_NOT_MADE") == 1
    assert not box.file.exists()
    box.reserve.check()


def test_a_file_system_that_saves_zeros_holds_nothing(
    box: Box, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", lambda fd, offset, size: os.ftruncate(fd, size))
    trio.run(keep, box.reserve)
    assert not box.file.exists()
    assert "bytes are held" in capfd.readouterr().err


def test_every_change_is_logged_once_by_the_plane_that_keeps_it(box: Box, capfd) -> None:
    box.leave(0)
    box.reserve.look()
    assert "disk_full" not in capfd.readouterr().err
    box.leave(20 * MIB)

    async def life() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(box.reserve.keep)
            await trio.testing.wait_all_tasks_blocked(0.02)
            for free in (0, 0, 40, 40, 0):
                box.leave(free * MIB)
                box.reserve.look()
            nursery.cancel_scope.cancel()

    trio.run(life)
    told = capfd.readouterr().err
    assert (told.count(DISK_FULL), told.count("disk_has_room")) == (2, 2)


def test_the_shared_one_of_tools_does_nothing(tmp_path: Path) -> None:
    NO_RESERVE.check()
    NO_RESERVE.spend(1 << 40)
    NO_RESERVE.check()
    trio.run(NO_RESERVE.make_way)
    assert NO_RESERVE.reasons() == ()
    assert NO_RESERVE.facts() == {}
    assert NO_RESERVE.statistics().looks == 0


def test_on_a_full_disk_only_what_fits_is_attempted(box: Box) -> None:
    box.hold()
    assert trio.run(box.reserve.fits, 1 << 40)  # nobody has seen that it is full
    box.leave(MIB)
    assert box.reserve.is_full()
    assert not trio.run(box.reserve.fits, 10 * MIB)
    assert box.file.exists()  # nothing is released for what does not fit
    assert trio.run(box.reserve.fits, 8 * MIB)
    assert not box.file.exists()
    box.leave(20 * MIB)
    assert trio.run(box.reserve.fits, 1 << 40)
