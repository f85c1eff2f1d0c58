from __future__ import annotations

from appliance.store.journal_types import Batch, Gap, GapReason, JournalSpec


def test_the_defaults_are_those_of_the_design() -> None:
    spec = JournalSpec(name="x")
    assert (spec.flush_interval_s, spec.flush_bytes, spec.sync_interval_s) == (0.25, 1 << 20, 1.0)


def test_a_batch_is_true_when_it_tells_something() -> None:
    gap = Gap(1, 4, GapReason.TRIMMED)
    assert not Batch(None, 5, [], 0)
    assert Batch(gap, 5, [], 0)
    assert Batch(None, 5, [b""], 0)
    assert (Batch(gap, 5, [b"a", b"b"], 0).next_seq, Batch(gap, 5, [b"a", b"b"], 0).last_seq) == (7, 6)
    assert Batch(gap, 5, [], 0).last_seq == 4  # what a cursor acknowledges when only a gap came


def test_gaps_join_only_when_they_touch_and_have_one_reason() -> None:
    gap = Gap(1, 4, GapReason.TRIMMED)
    assert gap.count == 4
    assert Gap(5, 6, GapReason.TRIMMED).follows(gap)
    assert not Gap(6, 6, GapReason.TRIMMED).follows(gap)
    assert not Gap(5, 6, GapReason.LOST).follows(gap)
