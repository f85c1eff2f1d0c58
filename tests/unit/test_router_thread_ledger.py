"""Thread numbers never repeat: after kills, power cuts, rot, refusing disks and lost regions."""

from __future__ import annotations

import errno
import random
import shutil
from collections import Counter

import msgspec
import pytest

from appliance.router import thread_ledger
from appliance.router.thread_ledger import CEILING_STEP
from appliance.router.threads import STEP, thread_key
from appliance.store.journal_types import Gap, GapReason
from appliance.store.layouts import THREAD_SEQ, THREADS
from appliance.store.region import Environment
from appliance.store.region_admit import LIVE
from appliance.store.replay import replay
from appliance.system.boot import BootId
from appliance.testing.faultdisk import CrashDisk
from appliance.wire.errors import Unavailable
from tests.fault.hive_ledger import SMALL, Box, accept, on_trio, refuse, rot


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


@on_trio
async def test_a_thread_begins_at_one_and_goes_on_behind_its_reservation_after_a_clean_stop(box):
    async with box.running() as run:
        assert run.take("t", 3) == [1, 2, 3]
        assert run.ledger.bound(thread_key("t")) == STEP
        assert run.take("u") == [1]
    async with box.running() as run:
        assert run.take("t") == [STEP + 1]
        assert run.ledger.statistics().floor == 0


@on_trio
async def test_an_orderly_reboot_rebuilds_the_region_from_the_journal(box):
    async with box.running() as run:
        run.take("t", STEP + 1)
        run.take("u")
    box.reboot()
    async with box.running() as run:
        assert not run.environment.opened.kept
        assert run.take("t") == [2 * STEP + 1]
        assert run.take("u") == [STEP + 1]
        assert run.take("new") == [1]


@on_trio
async def test_a_killed_process_goes_on_behind_its_reservations(box):
    async with box.running() as run:
        run.take("t", 5)
        run.crash()
    async with box.running() as run:
        assert run.environment.opened.kept
        assert run.ledger.statistics().floor == 0
        assert run.take("t") == [STEP + 1]
        assert run.take("new") == [1]


@on_trio
async def test_a_kill_between_journal_and_region_is_made_good_from_the_journal(box):
    async with box.running() as run:
        run.take("t")
        run.journal.write_through([b"R" + thread_key("t") + (9 * STEP).to_bytes(8, "big")])
        run.crash()
    async with box.running() as run:
        assert run.take("t") == [9 * STEP + 1]


@on_trio
async def test_after_a_power_cut_known_and_unknown_threads_go_on_above_the_ceiling(box):
    async with box.running() as run:
        run.take("known")
        await run.journal.sync()
        run.take("lost", 2 * STEP)
        ceiling = run.ledger.statistics().ceiling
        run.crash(power_seed=1)
    async with box.running() as run:
        assert run.ledger.statistics().floor == ceiling
        for thread in ("known", "lost", "new"):
            assert run.take(thread) == [ceiling + 1]
        second = run.ledger.statistics().ceiling
        assert second >= ceiling + CEILING_STEP
        run.crash(power_seed=2)
    async with box.running() as run:
        assert run.take("new") == [second + 1]


@pytest.mark.parametrize("faults", [False, True])
@on_trio
async def test_numbers_never_repeat_whatever_happens_between_two_starts(box, faults):
    """More of it in ``tests/fault/test_hive_power.py``."""
    chance, seen = random.Random(5), Counter()
    for _ in range(8):
        await box.live(chance, seen, faults=faults)
    assert max(seen.values()) == 1, [key for key, count in seen.items() if count > 1][:5]


@on_trio
async def test_a_clean_stop_needs_no_ceiling_in_the_next_boot(box):
    async with box.running() as run:
        run.take("t")
    box.reboot()
    async with box.running() as run:
        assert run.ledger.statistics().floor == 0


@on_trio
async def test_damage_in_the_journal_lifts_every_thread_and_only_once(box):
    async with box.running() as run:
        for number in range(40):
            run.take(f"t{number}", STEP)
        await run.journal.sync()
        top = run.ledger.bound(thread_key("t0"))
    rot(box, share=0.5)
    box.reboot()
    async with box.running() as run:
        floor = run.ledger.statistics().floor
        assert floor > top
        assert run.take("t39") == [floor + 1]
    box.reboot()
    async with box.running() as run:
        assert run.ledger.statistics().floor == floor  # the same damage does not lift them again
        assert run.take("t39") == [floor + STEP + 1]


@on_trio
async def test_damage_that_took_the_newest_ceilings_is_allowed_for(box):
    """The record of a raised ceiling is lost, and with it every reservation up to there."""
    async with box.running() as run:
        run.take("t")
        ceiling = run.ledger.statistics().ceiling
        lost = Gap(1, 7, GapReason.DAMAGED)
        run.crash(power_seed=3)
    async with box.running() as run:
        with Environment(SMALL, box.tmpfs / "other", (THREADS,), boot=BootId("b")) as environment:
            ledger = box.ledger(run.journal, environment, "b")

            async def stored():
                async for part in replay(run.journal):
                    yield part
                yield lost

            await ledger.replay(stored())
            await ledger.begin()
            assert ledger.statistics().floor >= ceiling + 7 * 2 * CEILING_STEP


@on_trio
async def test_the_ceiling_is_asked_for_in_the_turn_that_gets_near_it(box):
    async with box.running() as run:
        due = []
        run.ledger._on_due = lambda: due.append(run.ledger.wants_note)
        run.take("t", STEP)
        assert not run.ledger.wants_note
        assert not due
        run.ledger.reserve([(thread_key("t"), CEILING_STEP - 10)])
        assert due == [True]
        await run.ledger.note()
        assert not run.ledger.wants_note
        assert run.ledger.statistics().ceiling >= 2 * CEILING_STEP
        assert run.ledger.statistics().overruns == 0
        run.ledger.reserve([(thread_key("t"), 9 * CEILING_STEP)])
        assert run.ledger.statistics().overruns == 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
@on_trio
async def test_a_disk_that_refuses_does_not_stop_the_numbering(box, error):
    async with box.running(stop=False, fault={"error": error, "sticky": True}) as run:
        run.take("t")
        run.fault.fail_at = 0
        run.take("t", STEP)
        assert run.take("u", 3) == [1, 2, 3]
        assert run.ledger.statistics().unwritten == 2
        assert run.ledger.wants_note
        with pytest.raises(Unavailable):
            await run.ledger.note()
        with pytest.raises(Unavailable):
            await run.ledger.end()
        run.crash()
    async with box.running() as run:  # only the region knew
        assert run.take("u") == [STEP + 1]
        assert run.take("t") == [2 * STEP + 1]
    box.reboot()
    async with box.running() as run:  # and now the journal knows too
        assert run.take("u")[0] > 2 * STEP
        assert run.take("t")[0] > 3 * STEP


@on_trio
async def test_when_the_disk_is_back_the_journal_gets_a_floor_above_what_it_missed(box):
    async with box.running(fault={"sticky": True}) as run:
        run.fault.fail_at = 0
        run.take("t", 3 * STEP)
        run.fault.heal()
        await run.journal.resume()
        assert run.ledger.wants_note
        await run.ledger.note()
        assert not run.ledger.wants_note
        assert run.take("u") == [1]
    box.reboot()
    async with box.running() as run:
        assert run.take("t")[0] > 3 * STEP


@on_trio
async def test_the_hive_starts_on_a_disk_that_refuses_and_notes_it_later(box):
    async with box.running() as run:
        run.take("t")
    fault = {"fail_at": 0, "sticky": True, "only": frozenset({"pwrite", "sync", "create"})}
    async with box.running(fault=fault) as run:
        assert not run.ledger.statistics().noted
        assert run.take("t") == [STEP + 1]
        run.fault.heal()
        await run.journal.resume()
        await run.ledger.note()
        assert run.ledger.statistics().noted
        run.crash(power_seed=1)
    async with box.running() as run:
        assert run.ledger.statistics().floor >= CEILING_STEP


@on_trio
async def test_numbers_survive_in_the_region_when_the_start_was_never_noted(box):
    async with box.running() as run:
        run.take("t")
    fault = {"fail_at": 0, "sticky": True, "only": frozenset({"pwrite", "sync", "create"})}
    async with box.running(fault=fault, stop=False) as run:
        assert run.take("t") == [STEP + 1]
        run.crash()
    async with box.running() as run:
        assert run.take("t") == [2 * STEP + 1]


@on_trio
async def test_reservations_that_the_region_refuses_are_remembered_beyond_the_counters_memory(box):
    async with box.running() as run:
        run.take("t")
        refuse(run.environment)
        run.take("t", STEP)
        for number in range(20):  # more than the counters hold: "t" is forgotten there
            run.take(f"other-{number}")
        assert run.ledger.statistics().unstored == 21
        assert run.take("t") == [2 * STEP + 1]
        accept(run.environment)
        run.take("v")
        assert run.environment.get(THREAD_SEQ, thread_key("t")) == 3 * STEP
        assert run.environment.get(THREAD_SEQ, thread_key("other-0")) == STEP


@on_trio
async def test_a_region_that_missed_a_reservation_is_brought_up_after_a_kill(box):
    async with box.running() as run:
        run.take("t")
        refuse(run.environment)
        run.take("t", STEP)
        run.crash()
        accept(run.environment)
    async with box.running() as run:
        assert run.environment.opened.kept
        assert run.take("t") == [2 * STEP + 1]


@on_trio
async def test_a_region_that_refuses_for_long_lifts_all_threads_and_holds_no_more(box, monkeypatch):
    monkeypatch.setattr(thread_ledger, "_MAX_MISSING", 10)
    async with box.running() as run:
        run.take("t", STEP + 1)
        refuse(run.environment)
        for number in range(30):
            run.take(f"other-{number}")
        assert len(run.ledger._missing) <= 11
        assert run.take("t")[0] > 2 * STEP
        assert run.take("new")[0] > 2 * STEP  # lifted with all
        assert run.ledger.wants_note
        run.crash()
        accept(run.environment)
    async with box.running() as run:  # from the journal: the region stayed where it was
        for number in range(30):
            assert run.take(f"other-{number}")[0] > STEP
        assert run.take("t")[0] > 3 * STEP


@on_trio
async def test_refused_by_journal_and_region_at_once_still_nothing_repeats(box):
    async with box.running(fault={"sticky": True}) as run:
        refuse(run.environment)
        run.fault.fail_at = 0
        first = run.take("t", STEP)
        for number in range(20):
            run.take(f"other-{number}")
        assert run.take("t")[0] > first[-1]
        run.fault.heal()
        await run.journal.resume()
        await run.ledger.note()
        run.crash()
        accept(run.environment)
    async with box.running() as run:
        assert run.take("t")[0] > STEP + 1


@on_trio
async def test_what_neither_journal_nor_region_took_is_remembered_beyond_the_process(box):
    async with box.running(fault={"sticky": True}, stop=False) as run:
        run.take("t")
        refuse(run.environment)
        run.fault.fail_at = 0
        lost = run.take("t", 3 * STEP)
        run.crash()
        accept(run.environment)
    async with box.running() as run:
        assert run.take("t")[0] > lost[-1]


@on_trio
async def test_processes_that_only_shared_memory_knows_of_do_not_repeat_each_other(box):
    """Killed again and again on a disk that takes nothing, each time with a region that is lost."""
    async with box.running(stop=False) as run:
        seen = run.take("t", 3)
        run.crash()
        shutil.rmtree(box.tmpfs / "next")
    refusing = {"sticky": True, "fail_at": 0, "only": frozenset({"create", "open_write", "pwrite", "sync"})}
    for _ in range(3):
        async with box.running(fault=refusing, stop=False) as run:
            numbers = run.take("t", 3)
            assert numbers[0] > seen[-1]
            seen += numbers
            run.crash()
            shutil.rmtree(box.tmpfs / "next")


@on_trio
async def test_garbage_in_shared_memory_lifts_no_higher_than_the_ceiling(box):
    async with box.running() as run:
        run.take("t")
        ceiling = run.ledger.statistics().ceiling
    box.word = [2**64 - 1]
    async with box.running() as run:
        assert run.ledger.statistics().floor == ceiling
        assert run.take("t") == [ceiling + 1]


@on_trio
async def test_a_region_that_cannot_be_read_answers_with_the_highest_number_of_all(box):
    async with box.running() as run:
        run.take("t", 3 * STEP)
        run.environment.read = lambda: (_ for _ in ()).throw(Unavailable("gone"))
        assert run.ledger.bound(thread_key("unknown")) == 3 * STEP
        del run.environment.read


@on_trio
async def test_a_journal_that_is_gone_leaves_the_numbers_to_the_region(box):
    async with box.running() as run:
        run.take("t", 2 * STEP)
        run.take("u")
    box.disk = CrashDisk()
    async with box.running() as run:
        assert run.environment.opened.kept
        assert run.take("t")[0] > 2 * STEP
        assert run.take("u")[0] > 2 * STEP
        assert run.ledger.statistics().unstored == 0  # the region follows the new journal
    box.reboot()
    async with box.running() as run:
        assert run.take("t")[0] > 3 * STEP


@on_trio
async def test_the_image_holds_all_and_lets_the_journal_trim(box):
    async with box.running() as run:
        for number in range(60):
            run.ledger.reserve([(thread_key(f"t{n}"), (number + 1) * STEP) for n in range(50)])
            await run.journal.sync()
        before = run.journal.statistics().segments
        await run.write_image()
        await run.journal.sync()
        assert before > 2
    box.reboot()
    async with box.running() as run:
        assert run.journal.statistics().segments < before
        assert run.take("t7") == [60 * STEP + 1]
        assert run.ledger.statistics().floor == 0


@on_trio
async def test_more_threads_than_may_be_remembered_are_lifted_together(box, monkeypatch):
    monkeypatch.setattr(thread_ledger, "MAX_THREADS", 20)
    async with box.running() as run:
        for number in range(30):
            run.take(f"t{number}", number + 1)
        run.take("t3", 2 * STEP)
        upto, records = run.ledger.image()
        records = list(records)
        assert len(records) == 3
        assert run.ledger.statistics().threads == 0
        assert run.ledger.bound(thread_key("t1")) == 3 * STEP
        await run.journal.sync()
        await run.journal.write_base(upto, records)
    box.reboot()
    async with box.running() as run:
        assert run.take("t1") == [3 * STEP + 1]


@on_trio
async def test_a_full_map_costs_rows_and_no_numbers(box):
    """Far more threads than the region has room for."""
    spec = msgspec.structs.replace(LIVE, map_bytes=1 << 20)
    async with box.running(spec=spec) as run:
        for start in range(0, 40_000, 100):
            run.ledger.reserve([(thread_key(f"t{n}"), STEP) for n in range(start, start + 100)])
        assert run.ledger.statistics().unstored
        for number in (0, 20_000, 39_999):
            assert run.ledger.bound(thread_key(f"t{number}")) >= STEP
        run.crash()
    async with box.running(spec=spec) as run:
        for number in (0, 20_000, 39_999):
            assert run.ledger.bound(thread_key(f"t{number}")) >= STEP
