from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.system import procfs
from appliance.system.procfs import (
    ProcessEntry,
    cgroup_of,
    descendants,
    environment_of,
    process_entry,
    processes,
    signal_process,
)

ASLEEP = [sys.executable, "-c", "print(flush=True); input()"]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ASLEEP,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={"MARK": "här", "OTHER": "2"},
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_child_is_listed_with_its_relations(child: subprocess.Popen[bytes]) -> None:
    entry = processes()[child.pid]
    assert (entry.parent, entry.group, entry.session) == (os.getpid(), child.pid, child.pid)
    assert entry.alive
    assert entry.started > 0
    assert process_entry(child.pid) == msgspec.structs.replace(entry, state=process_entry(child.pid).state)
    assert process_entry(2**22 + 1) is None


def test_what_has_ended_is_not_alive(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    entry = process_entry(child.pid)
    assert entry is not None
    assert not entry.alive


def test_a_name_with_brackets_does_not_confuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_bytes(b"7 (a) R (b) S 5 6 4 0 -1" + b" 0" * 13 + b" 0 991 0")
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    found = processes()[7]
    assert (found.state, found.parent, found.group, found.session) == ("S", 5, 6, 4)


def test_descendants_are_all_below() -> None:
    listed = {
        pid: ProcessEntry(pid, parent, 0, 0, "S", 1)
        for pid, parent in ((2, 1), (3, 2), (4, 3), (5, 1), (6, 6))
    }
    assert descendants(listed, [2]) == {3, 4}
    assert descendants(listed, [1]) == {2, 3, 4, 5}
    assert descendants(listed, [6]) == {6}
    assert descendants(listed, []) == set()


def test_the_environment_of_a_child(child: subprocess.Popen[bytes]) -> None:
    assert "MARK=här".encode() in environment_of(child.pid)
    assert environment_of(2**22 + 1) == ()


def test_a_signal_reaches_exactly_that_process(child: subprocess.Popen[bytes]) -> None:
    entry = process_entry(child.pid)
    assert entry is not None
    older = msgspec.structs.replace(entry, started=entry.started - 1)
    assert not signal_process(older, signal.SIGKILL)
    assert child.poll() is None
    assert signal_process(entry, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not signal_process(entry, signal.SIGKILL)


def test_without_pidfds_it_goes_by_number(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", none)
    entry = process_entry(child.pid)
    assert entry is not None
    assert not signal_process(msgspec.structs.replace(entry, started=1), signal.SIGKILL)
    assert signal_process(entry, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def test_cgroup_of_reads_the_second_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / "cgroup").write_text("4:memory:/x\n0::/own/place\n")
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "cgroup").write_text("4:memory:/x\n")
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    assert [cgroup_of(pid) for pid in (8, 9, 10)] == ["/own/place", "", ""]
