"""Power cuts: whatever the medium kept of unsynced bytes, acknowledged records survive, once, in order."""

from __future__ import annotations

import errno
import os
import random

import pytest

from appliance.store.journal_types import JournalSpec
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from tests.fault.journal_kit import Hand, any_records

CASES = int(os.environ.get("FLUXBEE_POWER_CASES", "4000"))


def spec_for(rng: random.Random) -> JournalSpec:
    return JournalSpec(
        name="cut",
        durability=rng.choice(["durable", "relaxed"]),
        segment_bytes=rng.choice([4096, 8192, 65536]),
        group_bytes=rng.choice([200, 4096]),
        zero_ahead_bytes=rng.choice([0, 2048, 65536]),
        flush_bytes=2000,
    )


def live(hand: Hand, rng: random.Random, stored: list[bytes | None], faulty: FaultDisk) -> None:
    """Use the journal until the current fails or enough was done; ``stored`` follows what was accepted."""
    for _ in range(rng.randint(1, 25)):
        if faulty.failed:
            return
        action = rng.random()
        if action < 0.5:
            records = any_records(rng)
            hand.add(*records)
            stored += records
        elif action < 0.6 and hand.spec.durability == "relaxed":
            hand.through()
        elif action < 0.9:
            hand.step()
        else:
            hand.clock.advance(rng.choice([0.1, 0.3, 1.5]))


def one_life_after_the_other(seed: int, *, torn_bytes: bool) -> None:
    rng = random.Random(seed)
    spec = spec_for(rng)
    disk = CrashDisk()
    stored: list[bytes | None] = []
    durable = 0
    for _ in range(4):
        faulty = FaultDisk(disk, error=errno.EIO, part=rng.random())
        hand = Hand(faulty, spec)
        check(hand, stored, durable, torn_bytes)
        faulty.fail_at = len(faulty.calls) + rng.randrange(40)
        live(hand, rng, stored, faulty)
        durable = hand.committer.durable_seq
        if rng.random() < 0.2 and not faulty.failed:
            faulty.heal()
            hand.close()
            durable = len(stored)
            assert disk.open_files() == 0
        disk = (
            disk.after_kill()
            if rng.random() < 0.2
            else disk.after_power_cut(rng.randrange(1 << 30), torn_bytes=torn_bytes)
        )
    hand = Hand(disk, spec)
    check(hand, stored, durable, torn_bytes)


def check(hand: Hand, stored: list[bytes | None], durable: int, torn_bytes: bool) -> None:
    """What is there is a prefix of what was accepted, with everything that was durable."""
    records, gaps, damages = hand.read()
    last = hand.committer.last_seq
    assert last == hand.committer.durable_seq >= durable
    if not torn_bytes:  # else a torn sector may pass for flipped bits: reported, numbers not given out again
        assert hand.recovered.damages == ()
        assert (gaps, damages) == ([], [])
        assert list(records) == list(range(1, last + 1))
        assert last <= len(stored)
    for seq, record in records.items():
        assert record == stored[seq - 1], seq
    missing = [seq for seq in range(1, last + 1) if seq not in records]
    assert all(seq > durable or stored[seq - 1] is None for seq in missing)
    del stored[last:]
    stored += [None] * (last - len(stored))
    for seq in missing:
        stored[seq - 1] = None


@pytest.mark.parametrize("block", range(4))
def test_a_power_cut_takes_only_what_was_not_synced(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        one_life_after_the_other(seed, torn_bytes=False)


@pytest.mark.slow
def test_thousands_of_power_cuts() -> None:
    for seed in range(1000, 1000 + CASES):
        one_life_after_the_other(seed, torn_bytes=False)


@pytest.mark.slow
def test_sectors_torn_at_any_byte() -> None:
    for seed in range(100_000, 100_000 + CASES // 4):
        one_life_after_the_other(seed, torn_bytes=True)
