"""The engine's fast lane against its general one: whatever a frame looks like, both do the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.router.connection import Connection
from appliance.router.outbox import Limits
from appliance.wire.frames import MAX_FRAME_BYTES
from tests.envelopes import Envelope, duplicates, envelopes, go_reads, python_reads
from tests.router_kit import Packages, Rig, frame_bytes, message, numbered_uuid, pack

SENDER = "5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"
frames = envelopes(SENDER, st.sampled_from(["AI.b@north", numbered_uuid(2), "AI.c@north", "AI.b@*"]))


class Lane:
    """One engine with a sender and three recipients that it has reached before."""

    def __init__(self, *, general: bool, **rig: object) -> None:
        self.rig = Rig(**rig)  # type: ignore[arg-type]
        engine = self.rig.engine
        self.sender = self.rig.connect("AI.a", uuid=SENDER)
        self.others = [self.rig.connect(name) for name in ("AI.b", "AI.c")]
        for dst in ("AI.b@north", self.others[0].uuid, "AI.c@north", "AI.b@*"):
            self.sender.send(dst, thread_id="thread:a", trace="warm")
        for node in self.others:
            node.read_bytes()
        self.general_frames = 0
        frame = engine._frame

        def counted(source: Connection, body: bytes) -> None:
            self.general_frames += 1
            frame(source, body)

        engine._frame = counted  # type: ignore[method-assign]
        if general:
            engine._fast_routes = lambda source: {}  # type: ignore[method-assign]

    def outcome(self, *bodies: bytes) -> object:
        """Everything that these frames led to."""
        self.sender.send_bytes(*bodies)
        rig = self.rig
        return (
            [node.read_bytes() for node in (self.sender, *self.others)],
            dict(rig.counts),
            rig.turns.recorded,
            rig.turns.skipped,
            rig.bounds.bounds,
            {key: tuple(counter) for key, counter in rig.engine.threads.young.items()},
        )


def both(*bodies: bytes, **rig: object) -> Lane:
    """Run the frames through both lanes and compare; return the one with the fast lane."""
    fast, general = Lane(general=False, **rig), Lane(general=True, **rig)
    assert fast.outcome(*bodies) == general.outcome(*bodies)
    assert general.general_frames == len(bodies)
    return fast


def canonical(payload: str = "null", meta: str = '"type":"user"', **routing: object) -> bytes:
    values = {"src": SENDER, "dst": "AI.b@north", "ttl": 16, "trace_id": "t", **routing}
    return f'{{"routing":{frame_bytes(values).decode()},"meta":{{{meta}}},"payload":{payload}}}'.encode()


@settings(max_examples=60, deadline=None)
@given(st.lists(frames, min_size=1, max_size=6))
def test_both_lanes_do_the_same(sent: list[Envelope]) -> None:
    both(*(one.frame for one in sent))


@pytest.mark.slow
@settings(max_examples=800, deadline=None)
@given(st.lists(frames, min_size=1, max_size=6))
def test_both_lanes_do_the_same_very_often(sent: list[Envelope]) -> None:
    both(*(one.frame for one in sent))


@pytest.mark.parametrize(
    "meta",
    [
        '"type":"user"',
        '"type":"command","action":"x"',
        '"thread_id":"thread:a","type":"user"',
        '"type":"user","action_class":"read"',
        '"type":"user","context":{"type":"system","meta":{}}',
        '"type":"user","context":"' + "x" * 5000 + '"',
        '"type":"user","context":[' + "[]," * 500 + "1]",
        '"type":"тип"',
    ],
)
def test_canonical_frames_take_the_fast_lane(meta: str) -> None:
    assert both(canonical(meta=meta)).general_frames == 0


def test_a_new_thread_is_counted_in_the_fast_lane() -> None:
    assert both(canonical(meta='"type":"user","thread_id":"thread:new"')).general_frames == 0


@pytest.mark.parametrize(
    "frame",
    [
        canonical(meta='"type":"system"'),
        canonical(meta='"type":"query_response"'),
        canonical(meta='"type":"user","thread_id":" "'),
        canonical(meta='"type":"user","thread_seq":7'),
        canonical(meta='"type":"user","memory_package":{}'),
        canonical(meta='"type":"user","unknown":7'),
        canonical(meta='"type":"user","msg":null'),
        canonical(meta='"type": "user"'),
        canonical(meta='"type":"u\\u0073er"'),
        canonical(ttl=0),
        canonical(dst="AI.unknown@north"),
        canonical(dst=None),
        canonical(dst="broadcast"),
        canonical(src=""),
        canonical(src=SENDER.upper()),
        canonical(src=numbered_uuid(2)),
        canonical(payload='"\\ud800"'),
        canonical(payload="[" * 128 + "]" * 128),
        canonical(payload='"@"').replace(b"@", b"\xff"),
        canonical()[:-1],
        b"",
    ],
)
def test_special_frames_take_the_general_lane(frame: bytes) -> None:
    assert both(frame).general_frames == 1


REORDERED = [
    '{{"routing":{routing},"payload":{payload},"meta":{meta}}}',
    '{{"meta":{meta},"routing":{routing},"payload":{payload}}}',
    '{{"payload":{payload},"meta":{meta},"routing":{routing}}}',
    '{{"meta":{meta},"payload":{payload},"routing":{routing}}}',
]


@pytest.mark.parametrize("shape", REORDERED)
@pytest.mark.parametrize(
    "payload",
    [
        "{}",
        '{"x":{}}',
        '{"a":{},"meta":{"type":"system"}}',
        '{"a":"' + "." * 60 + '"}',
        '[{},{"b":{},"meta":{"z":1}}]',
    ],
)
def test_no_order_of_keys_shifts_bytes_between_head_and_payload(shape: str, payload: str) -> None:
    routing = frame_bytes({"src": SENDER, "dst": "AI.b@north", "ttl": 16, "trace_id": "t"}).decode()
    frame = shape.format(routing=routing, meta='{"type":"user","msg":"m"}', payload=payload).encode()
    lane = both(frame)
    (body,) = Lane(general=False).outcome(frame)[0][1]  # type: ignore[index]
    assert lane.general_frames == 1
    assert python_reads(body) == go_reads(body)
    assert duplicates(body) == []
    assert python_reads(body)["payload"] == json.loads(payload)
    assert python_reads(body)["routing"]["src_l2_name"] == "AI.a@north"


def test_routing_keys_in_any_order_leave_in_the_reference_order() -> None:
    values = {"src": SENDER, "trace_id": "t", "ttl": 16, "dst": "AI.b@north"}
    frame = f'{{"routing":{frame_bytes(values).decode()},"meta":{{"type":"user"}},"payload":1}}'.encode()
    lane = Lane(general=False)
    (body,) = lane.outcome(frame)[0][1]  # type: ignore[index]
    assert lane.general_frames == 0
    assert list(python_reads(body)["routing"]) == ["src", "src_l2_name", "dst", "ttl", "trace_id"]
    both(frame)


def test_text_that_looks_like_a_head_changes_nothing() -> None:
    for trace in ('"},"meta":{"', '},"meta":{', "\\", '\\"},\\"meta\\":{'):
        both(canonical(trace_id=trace), canonical(payload=json.dumps(trace)), canonical(trace_id=trace * 9))


@pytest.mark.parametrize("hungry", [(True, True), (True, False), (False, False)])
def test_both_lanes_record_the_same_turns(hungry: tuple[bool, bool]) -> None:
    lanes = [Lane(general=general) for general in (False, True)]
    bodies = [canonical(), canonical(meta='"thread_id":"thread:a","type":"user"'), canonical(ttl=0)]
    seen = []
    for lane in lanes:
        lane.rig.turns.hungry = hungry
        lane.outcome(*bodies)
        seen.append((lane.rig.turns.recorded, lane.rig.turns.skipped))
    assert seen[0] == seen[1]
    assert seen[0][1] == 3 - sum(hungry) - (1 if hungry[1] else 0)


def test_the_fast_lane_stops_at_half_of_a_queue() -> None:
    lanes = [Lane(general=general, queues=Limits(frames=10)) for general in (False, True)]
    for lane in lanes:
        lane.rig.begin()
        lane.sender.feed(pack(canonical()) * 20)
        assert lane.sender.connection.paused_on is lane.others[0].connection
    assert [lane.general_frames for lane in lanes] == [1, 6]
    assert lanes[0].others[0].read_bytes() == lanes[1].others[0].read_bytes()


def test_a_number_is_never_given_out_by_the_fast_lane_beyond_its_reservation() -> None:
    lane = both(*[canonical(meta='"thread_id":"thread:a","type":"user"')] * 1100, queues=Limits(frames=9000))
    assert lane.general_frames == 0
    assert max(lane.rig.bounds.bounds.values()) == 2048


def test_watched_traffic_takes_the_general_lane() -> None:
    lane = Lane(general=False)
    watcher = lane.rig.connect("SY.admin")
    lane.rig.engine.taps.set(watcher.connection, "*", lane.rig.now)
    lane.general_frames = 0
    lane.outcome(canonical())
    assert lane.general_frames == 1


def test_with_a_memory_the_general_lane_splices() -> None:
    packages = Packages(**{"thread:a": b'{"package_version":2}'})
    lane = Lane(general=False, memory=packages)
    (body,) = lane.outcome(canonical(meta='"type":"user","thread_id":"thread:a"'))[0][1]  # type: ignore[index]
    assert python_reads(body)["meta"]["memory_package"] == {"package_version": 2}


def test_a_change_of_the_tables_ends_the_fast_lane_at_once() -> None:
    lane = Lane(general=False)
    lane.rig.configure(vpns=[{"pattern": "AI.b", "vpn_id": 7}])
    (answers, b, _) = lane.outcome(canonical())[0]  # type: ignore[index]
    assert lane.general_frames == 1
    assert not b
    assert python_reads(answers[0])["payload"]["reason"] == "VPN_BLOCKED"


@pytest.mark.parametrize("name", ["AI." + "x" * 247 + "@north", "AI." + "\x01" * 247 + "@north"])
def test_no_stamped_frame_is_over_the_limit(name: str) -> None:
    rig = Rig()
    sender, other = rig.connect(name), rig.connect("AI.b")
    sender.send("AI.b@north")
    for size in (*range(MAX_FRAME_BYTES - 2100, MAX_FRAME_BYTES, 150), MAX_FRAME_BYTES):
        empty = frame_bytes(message(sender.uuid, "AI.b@north", payload=""))
        sender.send_bytes(frame_bytes(message(sender.uuid, "AI.b@north", payload="x" * (size - len(empty)))))
        for body in other.read_bytes():
            assert len(body) <= MAX_FRAME_BYTES


CORPUS = sorted((Path(__file__).parent / "corpus" / "frames").iterdir())


def test_both_lanes_agree_on_the_corpus() -> None:
    for path in CORPUS:
        written = path.read_bytes()
        both(written, written.replace(b'"dst":null', b'"dst":"AI.b@north"'))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 400), st.binary(max_size=3), st.integers(0, 4))
def test_both_lanes_agree_on_damaged_frames(place: int, put: bytes, cut: int) -> None:
    frame = canonical('{"a":{},"meta":{}}', '"thread_id":"thread:a","type":"user"')
    place %= len(frame)
    both(frame[:place] + put + frame[place + cut :])


@settings(max_examples=40, deadline=None)
@given(st.lists(frames, min_size=1, max_size=4), st.lists(st.integers(1, 700), max_size=6))
def test_how_the_stream_is_cut_does_not_matter(sent: list[Envelope], cuts: list[int]) -> None:
    whole, cut = Lane(general=False), Lane(general=False)
    stream = b"".join(pack(one.frame) for one in sent)
    whole.rig.begin()
    whole.sender.feed(stream)
    cut.rig.begin()
    position = 0
    for size in (*cuts, len(stream)):
        if cut.sender.open:
            cut.sender.feed(stream[position : position + size])
        position += size
    seen = []
    for lane in (whole, cut):
        lane.rig.end()
        seen.append([node.read_bytes() for node in (lane.sender, *lane.others)])
    assert seen[0] == seen[1]


def test_nodes_are_told_apart_by_who_they_are_not_by_what_they_claim() -> None:
    rig = Rig()
    first, second, other = rig.connect("AI.a"), rig.connect("AI.z"), rig.connect("AI.b")
    for node in (first, second):
        node.send("AI.b@north")
    forged = frame_bytes(message(second.uuid, "AI.b@north"))
    first.send_bytes(forged)
    assert [got["routing"]["src_l2_name"] for got in other.read()] == ["AI.a@north", "AI.z@north"]
    assert rig.counts["foreign_src"] == 1


def test_turns_before_an_oversize_frame_are_accounted_for() -> None:
    lane = Lane(general=False)
    lane.rig.turns.hungry = (False, False)
    lane.rig.begin()
    lane.sender.feed(pack(canonical()) * 3 + b"\xff\xff\xff\xff")
    lane.rig.end()
    assert lane.rig.turns.skipped == 3
