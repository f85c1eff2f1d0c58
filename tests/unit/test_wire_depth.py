from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire.codec import SHALLOW_BYTES, RejectedFrame, fast_decode, parse_frame
from appliance.wire.depth import MAX_DEPTH, depth_exceeds
from appliance.wire.frames import MAX_FRAME_BYTES


def nested(levels: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * levels + closing * levels).encode()


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_the_limit_itself_is_fine_and_one_more_is_not(opening: str, closing: str) -> None:
    step = opening.count("[") + opening.count("{")
    fine = nested(MAX_DEPTH // step, opening, closing)
    assert not depth_exceeds(fine)
    assert depth_exceeds(b"[" + fine + b"]")


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert not depth_exceeds(b"[" + b"[],{}," * 20_000 + b"1]")


def test_brackets_in_strings_do_not_count() -> None:
    assert not depth_exceeds(json.dumps(["[" * 500, '{"' * 500, '\\"[' * 500]).encode())
    assert depth_exceeds(json.dumps(["[" * 500]).encode()[:-1] + b"," + nested(MAX_DEPTH) + b"]")


def test_depth_after_strings_with_escaped_quotes_is_seen() -> None:
    tricky = b'["\\\\","\\"[","\\\\\\"",' + nested(MAX_DEPTH) + b"]"
    assert depth_exceeds(tricky)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(alphabet='[]{}"\\a', max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=3), inner, max_size=3)
        ),
        max_leaves=30,
    ),
    st.integers(1, 8),
)
def test_agrees_with_a_walk_over_the_parsed_value(value: Any, limit: int) -> None:
    assert depth_exceeds(json.dumps(value).encode(), limit) == (depth_of(value) > limit)


@given(
    st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"a", b"\n"]), max_size=300).map(b"".join)
)
def test_any_bytes_are_answered(text: bytes) -> None:
    assert depth_exceeds(text, 3) in (True, False)


@pytest.mark.parametrize(
    "tail",
    [
        b'"' + b'\\"' * 65_000,
        b'"' + b'\\"' * 65_000 + b"\\",
        b'"' * 130_001,
        b'"' + b"a" * 130_000,
        b"\\" * 130_000,
    ],
    ids=["escaped quotes", "and a last backslash", "quotes", "one endless string", "backslashes"],
)
def test_a_string_that_never_ends_costs_linear_time(tail: bytes) -> None:
    # One such frame would hold up everybody for minutes if each quote started a new search to the end:
    # the work is quadratic then, and this test does not come back.
    text = (nested(MAX_DEPTH + 1)[: MAX_DEPTH + 1] + tail)[:MAX_FRAME_BYTES]
    assert depth_exceeds(text)


def test_a_frame_of_the_fast_lane_below_the_shallow_size_cannot_be_too_deep() -> None:
    uuid = "5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"
    head = f'{{"routing":{{"src":"{uuid}","dst":"","ttl":1,"trace_id":""}},"meta":{{"type":""'.encode()
    in_context = head + b',"context":' + nested(MAX_DEPTH - 1) + b'},"payload":0}'
    in_payload = head + b'},"payload":' + nested(MAX_DEPTH) + b"}"
    for frame in (in_context, in_payload):
        fast_decode(frame)
        assert depth_exceeds(frame)
        assert len(frame) > SHALLOW_BYTES


@pytest.mark.parametrize("where", ["meta", "top", "routing"])
def test_the_shortest_frames_are_measured_too(where: str) -> None:
    deep = {"meta": nested(MAX_DEPTH - 1), "routing": nested(MAX_DEPTH - 1), "top": nested(MAX_DEPTH)}[where]
    extra = {key: b',"":' + deep if key == where else b"" for key in ("meta", "top", "routing")}
    frame = b'{"routing":{"src":"","dst":"","ttl":0,"trace_id":""%b},"meta":{"type":""%b}%b}' % (
        extra["routing"],
        extra["meta"],
        extra["top"],
    )
    with pytest.raises(RejectedFrame, match="too_deep"):
        parse_frame(frame)
    parse_frame(frame.replace(b"[]", b""))
