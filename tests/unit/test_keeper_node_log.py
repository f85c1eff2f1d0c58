from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.keeper.node_log import CURRENT, OLDER, LogBudget, LogIntake, LogRing, time_text

AT_MS = 1_763_633_472_123
STAMP = b"2025-11-20T10:11:12.123Z "
LINE = re.compile(rb"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [^\n]*\n\Z")


def intake(**numbers: int) -> LogIntake:
    return LogIntake(LogBudget(**numbers), 0.0)


def test_times_are_utc_with_milliseconds() -> None:
    assert time_text(AT_MS) == "2025-11-20T10:11:12.123Z"
    assert time_text(0) == "1970-01-01T00:00:00.000Z"


def test_every_line_is_stamped_and_a_begun_one_waits() -> None:
    log = intake()
    assert log.feed(b"one\r\n\ntw", 0.0, AT_MS) == STAMP + b"one\n" + STAMP + b"\n"
    assert log.feed(b"o\n", 0.0, AT_MS) == STAMP + b"two\n"
    assert log.feed(b"end", 0.0, AT_MS) == b""
    assert log.finish(0.0, AT_MS) == STAMP + b"end\n"
    assert log.dropped_bytes == 0


def test_what_is_not_utf8_is_shown_and_nul_too() -> None:
    assert intake().feed(b"a\xff\0b\n", 0.0, AT_MS) == STAMP + "a��b\n".encode()


def test_a_line_that_is_too_long_is_cut_and_the_rest_counted() -> None:
    log = intake(line_bytes=10)
    out = log.feed(b"x" * 25, 0.0, AT_MS) + log.feed(b"y" * 5 + b"\nnext\n", 0.0, AT_MS)
    assert out == STAMP + b"x" * 10 + "…\n".encode() + STAMP + b"next\n"
    assert (log.cut_lines, log.dropped_bytes) == (1, 20)


def test_over_the_flash_budget_bytes_are_dropped_and_one_line_says_so() -> None:
    log = intake(flash_burst=1000, flash_rate=100)
    out = log.feed(b"0123456789\n" * 100, 0.0, AT_MS)
    kept = out.count(b"\n")
    assert kept == 27  # of 36 bytes each
    assert log.dropped_bytes == (100 - kept) * 11
    due = log.next_deadline(0.0)
    assert due is not None
    assert log.tick(due - 0.01, AT_MS) == b""
    assert log.tick(due + 0.01, AT_MS) == STAMP + b"[fluxbee: 803 bytes of output dropped here]\n"
    assert log.tick(due + 5, AT_MS) == b""
    assert log.next_deadline(due + 5) is None
    assert log.feed(b"again\n", due + 5, AT_MS) == STAMP + b"again\n"


def test_a_gap_is_told_at_the_end() -> None:
    log = intake(flash_burst=100, flash_rate=100)
    log.feed(b"0123456789\n" * 10 + b"rest", 0.0, AT_MS)
    assert log.finish(0.0, AT_MS).endswith(b" bytes of output dropped here]\n")


def test_a_flood_stays_within_rate_and_burst() -> None:
    log = intake(flash_burst=10_000, flash_rate=1000)
    written = sum(len(log.feed(b"flood\n" * 2000, step / 10, AT_MS)) for step in range(101))
    assert 10_000 < written <= 10_000 + 10 * 1000 + 200


def test_beyond_the_read_rate_the_pipe_is_left_alone_for_a_moment() -> None:
    log = intake(read_burst=1000, read_rate=1000)
    log.feed(b"x" * 900, 0.0, AT_MS)
    assert log.read_again_at(0.0) is None
    log.feed(b"x" * 900, 0.0, AT_MS)
    again = log.read_again_at(0.0)
    assert again is not None
    assert 0.8 < again < 0.9
    assert log.read_again_at(again) is None


@given(
    st.lists(st.tuples(st.binary(max_size=60) | st.just(b"\n"), st.floats(0, 1)), max_size=30),
    st.integers(100, 500),
)
def test_whatever_comes_lines_are_whole_and_every_byte_is_kept_or_counted(
    pieces: list[tuple[bytes, float]], burst: int
) -> None:
    log, now, out, fed = intake(flash_burst=burst, flash_rate=50, line_bytes=20), 0.0, b"", b""
    for data, passed in pieces:
        now += passed
        out += log.feed(data, now, AT_MS) + log.tick(now, AT_MS)
        fed += data
    out += log.finish(now, AT_MS)
    lines = [line + b"\n" for line in out.split(b"\n")[:-1]]
    assert out.endswith(b"\n") or not out
    assert all(LINE.match(line) for line in lines)
    notices = sum(int(found) for found in re.findall(rb"\[fluxbee: (\d+) bytes", out))
    assert notices == log.dropped_bytes
    assert log.dropped_bytes <= len(fed) + 1


# --- the ring -----------------------------------------------------------------------------------------------


def sizes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_the_ring_keeps_the_newest_lines_within_its_size(tmp_path: Path) -> None:
    ring = LogRing(tmp_path / "deep" / "er", 8192)
    for number in range(1000):
        ring.write(b"line %04d\n" % number)
        assert sizes(tmp_path / "deep" / "er") <= 8192
    ring.close()
    both = (tmp_path / "deep/er" / OLDER).read_bytes() + (tmp_path / "deep/er" / CURRENT).read_bytes()
    assert both == b"".join(b"line %04d\n" % number for number in range(1000))[-len(both) :]
    assert len(both) > 4096
    assert ring.written_bytes == 10_000
    assert (ring.lost_bytes, ring.write_errors) == (0, 0)


def test_a_write_larger_than_everything_keeps_its_end(tmp_path: Path) -> None:
    ring = LogRing(tmp_path, 8192)
    ring.write(b"".join(b"line %04d\n" % number for number in range(5000)))
    ring.close()
    assert (tmp_path / CURRENT).read_bytes().endswith(b"line 4999\n")
    assert sizes(tmp_path) <= 8192


def test_a_line_larger_than_a_file_is_spread(tmp_path: Path) -> None:
    ring = LogRing(tmp_path, 8192)
    ring.write(b"z" * 5000 + b"\n")
    ring.close()
    assert sizes(tmp_path) == 5001


def test_a_new_launch_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for text in (b"first\n", b"second\n"):
        ring = LogRing(tmp_path, 8192)
        ring.write(text)
        ring.close()
    assert (tmp_path / CURRENT).read_bytes() == b"first\nsecond\n"


def test_others_may_not_read_it_and_links_are_not_followed(tmp_path: Path) -> None:
    ring = LogRing(tmp_path / "own", 8192)
    ring.write(b"x\n")
    ring.close()
    assert (tmp_path / "own" / CURRENT).stat().st_mode & 0o007 == 0
    (tmp_path / "target").write_text("")
    (tmp_path / CURRENT).symlink_to(tmp_path / "target")
    ring = LogRing(tmp_path, 8192)
    ring.write(b"x\n")
    assert (tmp_path / "target").read_text() == ""
    assert (ring.lost_bytes, ring.write_errors) == (2, 1)


def test_what_the_disk_refuses_is_counted_and_writing_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = LogRing(tmp_path, 8192)
    ring.write(b"before\n")

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        ring.write(b"lost\n")
    ring.write(b"after\n")
    ring.close()
    assert (tmp_path / CURRENT).read_bytes() == b"before\nafter\n"
    assert (ring.lost_bytes, ring.write_errors) == (5, 1)


def test_a_file_that_cannot_be_moved_away_does_not_grow(tmp_path: Path) -> None:
    (tmp_path / OLDER).mkdir()
    (tmp_path / OLDER / "in the way").touch()
    ring = LogRing(tmp_path, 8192)
    for number in range(2000):
        ring.write(b"line %04d\n" % number)
    ring.close()
    assert (tmp_path / CURRENT).stat().st_size <= 4096
    assert ring.write_errors > 0


def test_a_directory_that_cannot_be_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ring = LogRing(tmp_path / "file" / "below", 8192)
    ring.write(b"x\n")
    assert (ring.lost_bytes, ring.write_errors) == (2, 1)
