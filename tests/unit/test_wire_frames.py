from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire.errors import Invalid
from appliance.wire.frames import MAX_FRAME_BYTES, FrameSplitter, FrameTooLarge, pack_frame


def chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, position = [], 0
    while position < len(data):
        size = sizes[len(pieces) % len(sizes)] if sizes else len(data)
        pieces.append(data[position : position + size])
        position += size
    return pieces


def test_the_length_is_big_endian_and_counts_the_body_only() -> None:
    assert pack_frame(b'{"a":1}') == b"\0\0\0\7" + b'{"a":1}'


def test_the_limit_is_inclusive() -> None:
    assert len(pack_frame(b"x" * MAX_FRAME_BYTES)) == MAX_FRAME_BYTES + 4
    with pytest.raises(FrameTooLarge) as caught:
        pack_frame(b"x" * (MAX_FRAME_BYTES + 1))
    assert caught.value.size_bytes == MAX_FRAME_BYTES + 1
    assert caught.value.status == 413
    assert isinstance(caught.value, Invalid)


@given(st.lists(st.binary(max_size=30), max_size=8), st.lists(st.integers(1, 9), max_size=6))
def test_any_fragmentation_gives_the_same_bodies(bodies: list[bytes], sizes: list[int]) -> None:
    splitter = FrameSplitter()
    seen: list[bytes] = []
    for piece in chunks(b"".join(map(pack_frame, bodies)), sizes):
        seen += splitter.feed(piece)
    assert seen == bodies
    assert splitter.pending_bytes == 0


def test_a_zero_length_frame_is_a_frame() -> None:
    assert FrameSplitter().feed(b"\0\0\0\0" * 3) == [b""] * 3


def test_an_unfinished_frame_is_seen_at_the_end() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(pack_frame(b"abc")[:-1]) == []
    assert splitter.pending_bytes == 6
    assert splitter.feed(b"c") == [b"abc"]


def test_the_largest_frame_comes_through_in_small_pieces() -> None:
    body = bytes(range(256)) * 512
    splitter = FrameSplitter()
    seen = [one for piece in chunks(pack_frame(body), [65_536]) for one in splitter.feed(piece)]
    assert seen == [body]


@pytest.mark.parametrize("size", [MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
def test_an_oversize_length_is_an_error_before_the_body(size: int) -> None:
    splitter = FrameSplitter()
    with pytest.raises(FrameTooLarge) as caught:
        splitter.feed(pack_frame(b"fine") + struct.pack(">I", size))
    assert caught.value.size_bytes == size
