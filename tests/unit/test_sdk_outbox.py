from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.sdk.outbox import BATCH_BYTES, Outbox


def box(limit: int = 256, limit_bytes: int = 1 << 20) -> Outbox:
    return Outbox(limit=limit, limit_bytes=limit_bytes)


def test_frames_leave_joined_and_in_order() -> None:
    outbox = box()
    for frame in (b"one", b"two", b"three"):
        outbox.put(frame, 10.0)
    batch = outbox.next_batch(0.0)
    assert batch is not None
    assert bytes(batch) == b"onetwothree"
    assert outbox.advance(11) == 3
    assert (len(outbox), outbox.size_bytes) == (0, 0)
    assert outbox.next_batch(0.0) is None


def test_a_partly_taken_batch_goes_on_where_it_stopped() -> None:
    outbox = box()
    outbox.put(b"abc", 10.0)
    outbox.put(b"def", 10.0)
    outbox.next_batch(0.0)
    assert outbox.advance(4) == 0
    outbox.put(b"ghi", 10.0)
    rest = outbox.next_batch(0.0)
    assert rest is not None
    assert bytes(rest) == b"ef"
    assert outbox.advance(2) == 2
    assert bytes(outbox.next_batch(0.0) or b"") == b"ghi"


@pytest.mark.parametrize(
    ("sent", "left"), [(0, b"abcdefghi"), (2, b"abcdefghi"), (3, b"defghi"), (8, b"ghi")]
)
def test_after_a_loss_only_what_was_taken_whole_is_gone(sent: int, left: bytes) -> None:
    outbox = box()
    for frame in (b"abc", b"def", b"ghi"):
        outbox.put(frame, 10.0)
    outbox.next_batch(0.0)
    outbox.advance(sent)
    assert outbox.rewind() == sent // 3
    assert bytes(outbox.next_batch(0.0) or b"") == left


def test_rewind_without_a_batch_changes_nothing() -> None:
    outbox = box()
    outbox.put(b"abc", 10.0)
    assert outbox.rewind() == 0
    assert outbox.advance(3) == 0
    assert len(outbox) == 1


def test_both_bounds_hold_and_one_frame_always_fits() -> None:
    outbox = box(limit=2, limit_bytes=10)
    assert outbox.has_room(100, 0.0)
    outbox.put(b"x" * 4, 10.0)
    assert outbox.has_room(6, 0.0)
    assert not outbox.has_room(7, 0.0)
    outbox.put(b"x", 10.0)
    assert not outbox.has_room(1, 0.0)


def test_expired_frames_make_room_and_are_counted() -> None:
    outbox = box(limit=2)
    outbox.put(b"a", 1.0)
    outbox.put(b"b", 5.0)
    assert outbox.next_expiry() == 1.0
    assert not outbox.has_room(1, 0.5)
    assert outbox.has_room(1, 1.0)
    assert (outbox.expired, len(outbox), outbox.size_bytes) == (1, 1, 1)
    assert outbox.next_expiry() == 5.0


def test_expired_frames_are_not_sent_wherever_they_stand() -> None:
    outbox = box()
    for frame, expires_at in ((b"a", 1.0), (b"b", 9.0), (b"c", 1.0), (b"d", 9.0)):
        outbox.put(frame, expires_at)
    sent = b""
    while (batch := outbox.next_batch(2.0)) is not None:
        sent += bytes(batch)
        outbox.advance(len(batch))
    assert sent == b"bd"
    assert outbox.expired == 2


def test_the_batch_under_way_does_not_expire() -> None:
    outbox = box()
    outbox.put(b"abc", 1.0)
    outbox.next_batch(0.0)
    outbox.advance(1)
    outbox.put(b"late", 1.0)
    assert outbox.expire(5.0) == 1
    assert outbox.next_expiry() is None
    assert bytes(outbox.next_batch(5.0) or b"") == b"bc"


def test_a_batch_is_bounded() -> None:
    outbox = box(limit_bytes=1 << 30)
    for _ in range(5):
        outbox.put(bytes(60_000), 10.0)
    batch = outbox.next_batch(0.0)
    assert batch is not None
    assert BATCH_BYTES <= len(batch) <= BATCH_BYTES + 60_000


class OutboxMachine(RuleBasedStateMachine):
    """Against a plain list: every frame is sent once, in order, or expired; never cut, never doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = box(limit=1000)
        self.now = 0.0
        self.number = 0
        self.wire = b""  # what the current connection carried
        self.delivered: list[int] = []  # whole frames on any connection
        self.put_numbers: list[int] = []

    @rule(size=st.integers(0, 6), life=st.floats(0.5, 20))
    def put(self, size: int, life: float) -> None:
        self.outbox.put(b"%04d" % self.number + b"." * size + b"\n", self.now + life)
        self.put_numbers.append(self.number)
        self.number += 1

    @rule(share=st.floats(0, 1))
    def send(self, share: float) -> None:
        batch = self.outbox.next_batch(self.now)
        if batch is not None:
            taken = int(len(batch) * share)
            self.wire += bytes(batch[:taken])
            self.outbox.advance(taken)

    @rule()
    def lose(self) -> None:
        self.outbox.rewind()
        self.delivered += [int(line[:4]) for line in self.wire.split(b"\n")[:-1]]
        self.wire = b""

    @rule(step=st.floats(0, 5))
    def wait(self, step: float) -> None:
        self.now += step
        self.outbox.expire(self.now)

    @invariant()
    def nothing_is_doubled_or_out_of_order(self) -> None:
        seen = self.delivered + [int(line[:4]) for line in self.wire.split(b"\n")[:-1]]
        assert seen == sorted(set(seen))

    def teardown(self) -> None:
        while (batch := self.outbox.next_batch(self.now)) is not None:
            self.wire += bytes(batch)
            self.outbox.advance(len(batch))
        self.lose()
        assert len(self.delivered) + self.outbox.expired == len(self.put_numbers)
        assert self.outbox.size_bytes == 0


TestOutboxMachine = OutboxMachine.TestCase


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=30), st.integers(1, 7))
def test_any_chunking_sends_the_same_bytes(frames: list[bytes], chunk: int) -> None:
    outbox = box(limit=1000)
    for frame in frames:
        outbox.put(frame, 1.0)
    sent, gone = b"", 0
    while (batch := outbox.next_batch(0.0)) is not None:
        sent += bytes(batch[:chunk])
        gone += outbox.advance(min(chunk, len(batch)))
    assert (sent, gone) == (b"".join(frames), len(frames))
