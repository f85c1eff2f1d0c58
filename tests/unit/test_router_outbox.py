from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.router.outbox import Admission, Limits, Outbox
from appliance.wire.frames import FrameSplitter, pack_frame

SMALL = Limits(frames=8, size_bytes=1000, control_frames=4, control_bytes=100, stall_s=0.05)


def take(outbox: Outbox, limit: int | None = None, now: float = 0.0) -> bytes:
    """What a recipient that reads ``limit`` bytes gets."""
    taken = b""
    while (data := bytes(outbox.pending())) and (limit is None or len(taken) < limit):
        part = data if limit is None else data[: limit - len(taken)]
        outbox.advance(len(part), now)
        taken += part
    return taken


def test_the_defaults_are_the_decided_bounds() -> None:
    assert msgspec.structs.asdict(Limits()) == {
        "frames": 4096,
        "size_bytes": 4 * 1024 * 1024,
        "control_frames": 1024,
        "control_bytes": 512 * 1024,
        "pause_s": 0.25,
        "stall_s": 0.05,
    }


def test_frames_leave_in_order_with_their_lengths() -> None:
    outbox = Outbox(SMALL)
    for body in (b"a", b"", b"bcd"):
        outbox.put(body)
    assert take(outbox) == b"".join(map(pack_frame, (b"a", b"", b"bcd")))
    assert outbox.empty
    assert (outbox.queued_frames, outbox.queued_bytes) == (0, 0)


def test_control_frames_go_first_and_do_not_count_as_data() -> None:
    outbox = Outbox(SMALL)
    outbox.put(b"data")
    assert outbox.put_control(b"first")
    assert outbox.put_control(b"second")
    assert (outbox.queued_frames, outbox.queued_bytes) == (1, 8)
    assert take(outbox) == pack_frame(b"first") + pack_frame(b"second") + pack_frame(b"data")


def test_a_control_frame_does_not_cut_into_a_frame_that_is_half_out() -> None:
    outbox = Outbox(SMALL)
    outbox.put(b"data")
    taken = take(outbox, 3)
    outbox.put_control(b"control")
    assert taken + take(outbox) == pack_frame(b"data") + pack_frame(b"control")


def test_pending_is_stable_until_something_was_taken() -> None:
    outbox = Outbox(SMALL)
    outbox.put(b"one")
    first = bytes(outbox.pending())
    outbox.put(b"two")
    assert bytes(outbox.pending()) == first == pack_frame(b"one")
    outbox.advance(2, 0.0)
    assert bytes(outbox.pending()) == first[2:]


def test_the_control_lane_has_bounds_of_its_own() -> None:
    outbox = Outbox(SMALL)
    assert [outbox.put_control(b"x") for _ in range(5)] == [True] * 4 + [False]
    assert outbox.control_dropped == 1
    take(outbox)
    assert not outbox.put_control(b"y" * 97)
    assert outbox.put_control(b"y" * 96)
    assert not outbox.put_control(b"")
    assert outbox.control_dropped == 3


def test_control_bytes_on_the_way_out_still_count() -> None:
    outbox = Outbox(SMALL)
    outbox.put_control(b"y" * 90)
    take(outbox, 50)
    assert not outbox.put_control(b"z" * 60)
    assert outbox.put_control(b"z" * 40)
    take(outbox)
    assert outbox.put_control(b"z" * 96)


@pytest.mark.parametrize(
    ("queued", "size", "idle_s", "expected"),
    [
        (4, 10, 0.0, Admission.TAKE_AND_PAUSE),
        (7, 10, 0.0, Admission.TAKE_AND_PAUSE),
        (8, 10, 0.0, Admission.REFUSE),
        (4, 10, 0.051, Admission.REFUSE),
        (4, 10, 0.049, Admission.TAKE_AND_PAUSE),
        (4, 940, 0.0, Admission.TAKE_AND_PAUSE),
        (4, 941, 0.0, Admission.REFUSE),
    ],
)
def test_the_rule_above_half(queued: int, size: int, idle_s: float, expected: Admission) -> None:
    outbox = Outbox(SMALL)
    outbox.progress_at = 100.0
    for _ in range(queued):
        outbox.put(b"x" * 10)
    assert outbox.admit(size, 100.0 + idle_s) is expected
    assert outbox.refused == (expected is Admission.REFUSE)


def test_an_empty_queue_is_never_stalled_however_long_it_was_empty() -> None:
    outbox = Outbox(SMALL)
    assert not outbox.stalled(1e9)
    outbox.put(b"x")
    assert outbox.stalled(1e9)


def test_progress_ends_a_stall() -> None:
    outbox = Outbox(SMALL)
    outbox.put(b"x" * 10)
    assert outbox.stalled(1.0)
    take(outbox, 1, now=1.0)
    assert not outbox.stalled(1.04)
    assert outbox.stalled(1.06)


@pytest.mark.parametrize(
    ("frames", "size", "roomy"), [(2, 1, True), (3, 1, False), (2, 121, True), (2, 122, False)]
)
def test_a_quarter_is_room_again(frames: int, size: int, roomy: bool) -> None:
    outbox = Outbox(SMALL)
    for _ in range(frames):
        outbox.put(b"x" * size)
    assert outbox.roomy() is roomy


def test_what_is_given_up_is_counted_exactly() -> None:
    outbox = Outbox(SMALL)
    for size in (1, 2, 3, 4):
        outbox.put(b"x" * size)
    take(outbox, 5 + 6 + 2)
    outbox.put(b"later")
    outbox.put_control(b"control")
    assert outbox.abandon() == 3
    assert outbox.empty
    assert outbox.abandon() == 0


@pytest.mark.parametrize(
    ("taken", "lost"), [(0, 3), (1, 3), (5, 3), (6, 2), (7, 2), (12, 1), (17, 1), (18, 0)]
)
def test_a_frame_that_was_taken_to_its_last_byte_is_not_lost(taken: int, lost: int) -> None:
    outbox = Outbox(SMALL)
    for _ in range(3):
        outbox.put(b"ab")
    take(outbox, taken)
    assert outbox.abandon() == lost
    assert (outbox.queued_frames, outbox.queued_bytes, bytes(outbox.pending())) == (0, 0, b"")
    outbox.put_control(b"still usable")
    assert take(outbox) == pack_frame(b"still usable")


def test_empty_means_every_lane() -> None:
    outbox = Outbox(SMALL)
    assert outbox.empty
    outbox.put(b"data")
    assert not outbox.empty
    outbox.pending()
    assert not outbox.empty
    take(outbox)
    outbox.put_control(b"control")
    assert not outbox.empty
    take(outbox)
    assert outbox.empty


def test_a_control_frame_on_the_way_out_is_no_data_lost() -> None:
    outbox = Outbox(SMALL)
    outbox.put_control(b"control")
    outbox.put(b"data")
    take(outbox, 3)
    assert outbox.abandon() == 1


def test_statistics_are_a_snapshot() -> None:
    outbox = Outbox(SMALL)
    for _ in range(6):
        outbox.put(b"xy")
    take(outbox, 12)
    outbox.put_control(b"c" * 200)
    numbers = outbox.statistics(now=1.0)
    assert msgspec.structs.asdict(numbers) == {
        "frames": 4,
        "size_bytes": 24,
        "high_frames": 6,
        "sent_bytes": 12,
        "refused": 0,
        "control_dropped": 1,
        "stalled": True,
    }


class OutboxMachine(RuleBasedStateMachine):
    """Any order of putting and taking: the stream is intact, the counts are right at every frame border."""

    @initialize()
    def start(self) -> None:
        self.outbox = Outbox(SMALL)
        self.splitter = FrameSplitter()
        self.data: list[bytes] = []
        self.control: list[bytes] = []
        self.got: list[bytes] = []
        self.waiting = 0
        self.number = 0

    def body(self, kind: bytes, size: int) -> bytes:
        self.number += 1
        return kind + b"%d" % self.number + b"." * size

    @rule(size=st.integers(0, 200))
    def put(self, size: int) -> None:
        body = self.body(b"d", size)
        crowded = (
            self.outbox.queued_frames >= self.outbox.half_frames
            or self.outbox.queued_bytes >= self.outbox.half_bytes
        )
        if not crowded or self.outbox.admit(len(body), 0.0) is not Admission.REFUSE:
            self.outbox.put(body)
            self.data.append(body)
            self.waiting += len(body) + 4

    @rule(size=st.integers(0, 60))
    def put_control(self, size: int) -> None:
        body = self.body(b"c", size)
        if self.outbox.put_control(body):
            self.control.append(body)

    @precondition(lambda self: not self.outbox.empty)
    @rule(limit=st.integers(1, 300))
    def take_some(self, limit: int) -> None:
        self.got += self.splitter.feed(take(self.outbox, limit))

    @rule()
    def take_all(self) -> None:
        self.got += self.splitter.feed(take(self.outbox))
        assert self.outbox.empty
        assert (self.outbox.queued_frames, self.outbox.queued_bytes) == (0, 0)
        assert [body for body in self.got if body.startswith(b"d")] == self.data
        assert [body for body in self.got if body.startswith(b"c")] == self.control

    @rule()
    def give_up(self) -> None:
        arrived = sum(body.startswith(b"d") for body in self.got)
        assert self.outbox.abandon() == len(self.data) - arrived
        self.start()

    @invariant()
    def bounds_hold(self) -> None:
        outbox = self.outbox
        assert 0 <= outbox.queued_frames <= SMALL.frames
        # Below half everything is taken, so one frame may go over.
        assert 0 <= outbox.queued_bytes <= SMALL.size_bytes + 210
        assert (outbox.queued_frames == 0) == (outbox.queued_bytes == 0)


OutboxMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyOrderOfPuttingAndTaking = OutboxMachine.TestCase
