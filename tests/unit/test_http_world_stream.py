"""Lines of an endless body: cut the same however they come, and none waits for its end for ever."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from appliance.http.world.stream import _Lines, _read
from appliance.wire.errors import Invalid


@given(st.lists(st.sampled_from([b"a", b"bc", b"\n", b" ", b"\r\n"]), max_size=40), st.integers(1, 9))
def test_lines_are_the_same_however_they_are_cut(pieces, step):
    text = b"".join(pieces)
    whole, cut = _Lines(100), _Lines(100)
    whole.feed(text, last=True)
    for at in range(0, len(text), step):
        cut.feed(text[at : at + step], last=False)
    cut.feed(b"", last=True)
    assert whole.ready == cut.ready
    assert not cut.begun


def test_a_line_in_tiny_chunks_is_bounded():
    lines = _Lines(1000)
    for _ in range(1000):
        lines.feed(b"x", last=False)
    with pytest.raises(Invalid, match="line 1 is longer"):
        lines.feed(b"x", last=False)


class Sender:
    """Sends one byte every few seconds."""

    def __init__(self, every_s: float, chunk: bytes) -> None:
        self._every_s = every_s
        self._chunk = chunk

    async def receive(self):
        await trio.sleep(self._every_s)
        return {"type": "http.request", "body": self._chunk, "more_body": True}


def test_a_line_that_does_not_end_is_given_up():
    async def main() -> None:
        with pytest.raises(Invalid, match="line 1 did not end within 30 s"):
            await _read(Sender(7, b"{"), _Lines(1000))
        assert 30 <= trio.current_time() - began < 60

    clock = MockClock(autojump_threshold=0)
    began = clock.current_time()
    trio.run(main, clock=clock)


def test_whoever_says_nothing_between_lines_has_longer():
    async def main() -> None:
        lines = _Lines(1000)
        assert await _read(Sender(500, b"{}\n"), lines)
        assert lines.ready == [(1, b"{}")]

    trio.run(main, clock=MockClock(autojump_threshold=0))
