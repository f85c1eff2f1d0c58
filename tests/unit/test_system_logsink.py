"""Writing a line never blocks, whatever stderr is; what is lost is counted."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.system import logsink
from appliance.system.logsink import ListSink, Sink, StreamSink

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def fill(sink: StreamSink) -> int:
    """Write until the sink drops; how many lines it took."""
    lines = 0
    while sink.statistics().dropped_lines == 0:
        sink.write(LINE)
        lines += 1
    return lines - 1


def test_a_pipe_that_nobody_reads_holds_up_nobody(pipe: tuple[int, int]) -> None:
    read_end, write_end = pipe
    sink = StreamSink(write_end, backlog_bytes=1000)
    taken = fill(sink)
    found = sink.statistics()
    assert found.backlog_bytes == 1000
    assert found.dropped_lines == 1
    assert not sink.flush()
    seen = b""
    while not sink.flush():
        seen += os.read(read_end, 1 << 16)
    while select.select([read_end], [], [], 0)[0]:
        seen += os.read(read_end, 1 << 16)
    assert seen == LINE * taken  # nothing torn, nothing twice, nothing out of order
    found = sink.statistics()
    assert (found.written_lines, found.written_bytes, found.backlog_bytes) == (taken, len(seen), 0)
    assert (sink.take_dropped(), sink.take_dropped()) == (1, 0)
    sink.close()


def test_the_shared_open_file_stays_blocking(pipe: tuple[int, int]) -> None:
    sink = StreamSink(pipe[1])
    fill(sink)
    assert not fcntl.fcntl(pipe[1], fcntl.F_GETFL) & os.O_NONBLOCK
    sink.close()


def test_flush_waits_for_a_reader_but_not_for_ever(pipe: tuple[int, int]) -> None:
    sink = StreamSink(pipe[1], backlog_bytes=1000)
    fill(sink)
    assert not sink.flush(0.01)
    os.read(pipe[0], 1 << 20)
    assert sink.flush(10)
    sink.close()


def test_a_socket_that_nobody_reads_holds_up_nobody() -> None:
    ours, theirs = socket.socketpair()
    sink = StreamSink(ours.fileno(), backlog_bytes=1000)
    taken = fill(sink)
    assert ours.getblocking()
    theirs.setblocking(False)
    seen = b""
    while not sink.flush():
        seen += theirs.recv(1 << 16)
    ours.close()
    sink.close()
    while data := theirs.recv(1 << 16):
        seen += data
    theirs.close()
    assert seen == LINE * taken


def test_a_terminal_that_is_stopped_holds_up_nobody() -> None:
    master, slave = os.openpty()
    sink = StreamSink(slave, backlog_bytes=1000)
    fill(sink)
    assert not fcntl.fcntl(slave, fcntl.F_GETFL) & os.O_NONBLOCK
    sink.close()
    os.close(master)
    os.close(slave)


def test_a_file_is_appended_to_at_the_shared_position(tmp_path: Path) -> None:
    path = tmp_path / "err"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"first\n")
    sink = StreamSink(fd)
    sink.write(b"second\n")
    os.write(fd, b"third\n")
    assert path.read_bytes() == b"first\nsecond\nthird\n"
    sink.close()
    os.close(fd)


def test_where_opening_again_is_refused_poll_decides(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError("not yours")

    monkeypatch.setattr(logsink.os, "open", refuse)
    sink = StreamSink(pipe[1], backlog_bytes=1000)
    monkeypatch.undo()
    taken = fill(sink)
    long_line = b"y" * 10_000 + b"\n"
    seen = b""
    while not sink.flush():
        seen += os.read(pipe[0], 1 << 16)
    sink.write(long_line)
    while select.select([pipe[0]], [], [], 0)[0]:
        seen += os.read(pipe[0], 1 << 16)
    assert seen == LINE * taken + long_line
    sink.close()


def test_a_reader_that_left_is_counted() -> None:
    read_end, write_end = os.pipe()
    sink = StreamSink(write_end)
    os.close(read_end)
    sink.write(LINE)
    assert (sink.statistics().failed_writes, sink.statistics().backlog_bytes) == (1, 0)
    sink.close()
    os.close(write_end)


def test_a_full_disk_is_counted(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    fd = os.open(tmp_path / "err", os.O_WRONLY | os.O_CREAT)
    sink = StreamSink(fd)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))  # Python ignores SIGXFSZ: EFBIG instead
    try:
        sink.write(LINE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (sink.statistics().failed_writes, sink.statistics().written_bytes) == (1, 50)
    os.close(fd)


def test_a_closed_descriptor_is_counted(pipe: tuple[int, int]) -> None:
    number = os.dup(pipe[1])
    os.close(number)
    sink = StreamSink(number)
    sink.write(LINE)
    assert sink.statistics().failed_writes == 1
    open_one = StreamSink(pipe[1])
    open_one.close()
    open_one.write(LINE)
    assert open_one.statistics().failed_writes == 1


def test_small_sinks() -> None:
    kept = ListSink()
    kept.write(LINE)
    assert (kept.lines, kept.take_dropped()) == ([LINE], 0)
    with pytest.raises(AssertionError):
        Sink().write(LINE)
