from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

import pytest

from appliance.system import process
from appliance.system.process import ProcessExit


def fork(body: Callable[[], int | None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = body() or 0
        finally:
            os._exit(code)
    return pid


def reap_within(pid: int, timeout_s: float = 5.0) -> ProcessExit:
    pidfd = os.pidfd_open(pid)
    try:
        assert select.select([pidfd], [], [], timeout_s)[0], f"{pid} did not end"
    finally:
        os.close(pidfd)
    gone = process.reap(pid)
    assert gone is not None
    return gone


@pytest.mark.parametrize(
    ("gone", "text"),
    [
        (ProcessExit(0), "exit 0"),
        (ProcessExit(78), "exit 78"),
        (ProcessExit(None, signal.SIGKILL), "SIGKILL"),
        (ProcessExit(None, 40), "signal 40"),
    ],
)
def test_an_exit_reads_as_words(gone: ProcessExit, text: str) -> None:
    assert str(gone) == text


def test_name_is_set_and_cut_at_15_bytes() -> None:
    def body() -> int:
        process.set_process_name("fluxbee-a-long-name")
        return 0 if process.process_name() == "fluxbee-a-long-" else 1

    assert reap_within(fork(body)) == ProcessExit(0)


def test_name_of_another_process() -> None:
    assert process.process_name(os.getpid()) == process.process_name()


def test_exit_code_and_signal_are_told_apart() -> None:
    assert reap_within(fork(lambda: 7)) == ProcessExit(7)
    sleeper = fork(lambda: time.sleep(60))
    assert process.reap(sleeper) is None
    os.kill(sleeper, signal.SIGKILL)
    assert reap_within(sleeper) == ProcessExit(None, signal.SIGKILL)


def test_reaping_a_stranger_is_an_error() -> None:
    with pytest.raises(ChildProcessError):
        process.reap(1)


def test_exited_child_is_seen_before_it_is_reaped() -> None:
    pid = fork(lambda: 3)
    deadline = time.monotonic() + 5
    while (seen := process.next_exited()) is None:
        assert time.monotonic() < deadline
    assert seen == pid
    assert process.next_exited() == pid
    assert pid in process.children()
    assert process.reap(pid) == ProcessExit(3)
    assert process.next_exited() is None


def test_a_group_is_signalled_while_its_leader_is_not_reaped() -> None:
    read_end, write_end = os.pipe()

    def body() -> None:
        os.setsid()
        fork(lambda: time.sleep(60))
        os.write(write_end, b"x")

    leader = fork(body)
    os.read(read_end, 1)
    os.close(write_end)
    deadline = time.monotonic() + 5
    while process.next_exited() != leader:
        assert time.monotonic() < deadline
    assert process.signal_group(leader, signal.SIGKILL)
    assert os.read(read_end, 1) == b""  # the grandchild held the last write end
    os.close(read_end)
    assert process.reap(leader) == ProcessExit(0)


def test_a_group_of_nobody_is_not_signalled() -> None:
    pid = fork(lambda: os.setsid())
    reap_within(pid)
    assert not process.signal_group(pid, signal.SIGKILL)


@pytest.mark.parametrize("group", [-1, 0, 1])
def test_everybody_is_not_a_group(group: int) -> None:
    with pytest.raises(ValueError, match="not a process group"):
        process.signal_group(group, signal.SIGKILL)


def test_closing_all_but_some_descriptors() -> None:
    def body() -> int:
        kept, gone = os.pipe()
        before = process.open_descriptors()
        closed = process.close_descriptors_except({0, 1, 2, kept})
        now = process.open_descriptors()
        return (
            0
            if gone not in now and kept in now and now <= {0, 1, 2, kept} and closed == len(before - now)
            else 1
        )

    assert reap_within(fork(body)) == ProcessExit(0)


def test_closed_stdio_becomes_dev_null() -> None:
    def body() -> int:
        null = os.stat(os.devnull).st_rdev
        os.close(0)
        os.close(2)
        if process.ensure_stdio() != 2 or process.ensure_stdio() != 0:
            return 1
        good = all(os.fstat(fd).st_rdev == null and os.get_inheritable(fd) for fd in (0, 2))
        return 0 if good and os.write(2, b"x") == 1 else 2

    assert reap_within(fork(body)) == ProcessExit(0)


def test_open_descriptors_does_not_count_itself() -> None:
    before = process.open_descriptors()
    read_end, write_end = os.pipe()
    assert process.open_descriptors() == before | {read_end, write_end}
    os.close(read_end)
    os.close(write_end)
    assert process.open_descriptors() == before


def test_threads_are_counted() -> None:
    code = textwrap.dedent(
        """
        import threading
        from appliance.system.process import thread_count
        assert thread_count() == 1, thread_count()
        leave = threading.Event()
        thread = threading.Thread(target=leave.wait)
        thread.start()
        assert thread_count() == 2, thread_count()
        leave.set()
        thread.join()
        """
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_death_signal_needs_the_expected_parent() -> None:
    def body() -> int:
        try:
            process.set_parent_death_signal(signal.SIGKILL, parent_pid=1_999_999)
        except ProcessLookupError:
            return 0
        return 1

    assert reap_within(fork(body)) == ProcessExit(0)


def test_child_dies_with_its_parent() -> None:
    read_end, write_end = os.pipe()

    def grandchild(parent_pid: int) -> None:
        process.set_parent_death_signal(signal.SIGKILL, parent_pid=parent_pid)
        os.write(write_end, b"x")
        time.sleep(60)

    def body() -> None:
        own_pid = os.getpid()
        fork(lambda: grandchild(own_pid))
        time.sleep(60)

    parent = fork(body)
    os.close(write_end)
    assert os.read(read_end, 1) == b"x"
    os.kill(parent, signal.SIGKILL)
    reap_within(parent)
    assert os.read(read_end, 1) == b""  # both holders of the write end are gone
    os.close(read_end)


def test_subreaper_adopts_grandchildren() -> None:
    def body() -> int:
        process.become_subreaper()
        middle = fork(lambda: 0 if fork(lambda: 5) else 1)
        seen = {}
        deadline = time.monotonic() + 5
        while len(seen) < 2 and time.monotonic() < deadline:
            pid = process.next_exited()
            if pid is not None:
                seen[pid] = process.reap(pid)
        return 0 if seen.pop(middle) == ProcessExit(0) and list(seen.values()) == [ProcessExit(5)] else 1

    assert reap_within(fork(body)) == ProcessExit(0)


def test_children_of_a_process_with_an_odd_name() -> None:
    def body() -> int:
        process.set_process_name("a) R 1 (b")
        child = fork(lambda: time.sleep(60))
        found = process.children() == (child,)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return 0 if found and process.children() == () else 1

    assert reap_within(fork(body)) == ProcessExit(0)
