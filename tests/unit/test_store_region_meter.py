from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from appliance.store import region_meter
from appliance.store.region_meter import ThreadWriteMeter


def test_it_counts_what_this_thread_writes(tmp_path: Path) -> None:
    meter = ThreadWriteMeter()
    with (tmp_path / "f").open("wb", buffering=0) as file:
        before = meter.read()
        file.write(bytes(12_345))
        after = meter.read()
    assert before is not None
    assert after is not None
    assert after - before == 12_345


def test_what_other_threads_write_is_theirs(tmp_path: Path) -> None:
    meter = ThreadWriteMeter()
    theirs: list[int | None] = []

    def work() -> None:
        theirs.append(meter.read())
        (tmp_path / "f").write_bytes(bytes(100_000))
        theirs.append(meter.read())

    before = meter.read()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert meter.read() == before
    assert theirs[0] is not None
    assert theirs[1] == theirs[0] + 100_000


def test_where_the_kernel_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    monkeypatch.setattr(
        region_meter.os, "open", lambda path, *rest: real("/proc/none" if "io" in str(path) else path, *rest)
    )
    assert ThreadWriteMeter().read() is None


def test_a_kernel_with_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = ThreadWriteMeter()
    meter.read()
    monkeypatch.setattr(region_meter.os, "pread", lambda *_: b"rchar: 5\n")
    assert meter.read() is None

    def gone(*_: object) -> bytes:
        raise ProcessLookupError

    monkeypatch.setattr(region_meter.os, "pread", gone)
    assert meter.read() is None


def test_a_forked_child_gets_its_own_counter() -> None:
    meter = ThreadWriteMeter()
    meter.read()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, str(meter.read()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 100) == b"0"
    os.close(reading)
    os.close(writing)
