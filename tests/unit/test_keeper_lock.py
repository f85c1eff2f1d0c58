from __future__ import annotations

import os

import pytest

from appliance.keeper.lock import InstanceLock
from appliance.wire.errors import Conflict


def test_holds_the_pid_and_makes_its_directory(tmp_path) -> None:
    path = tmp_path / "run" / "fluxbee" / "keeper.lock"
    with InstanceLock(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert path.read_text() == ""


def test_a_second_one_is_refused_and_names_the_first(tmp_path) -> None:
    path = tmp_path / "keeper.lock"
    with InstanceLock(path):
        with pytest.raises(Conflict, match=f"process {os.getpid()} holds {path}") as caught:
            InstanceLock(path)
        assert caught.value.code == "ALREADY_RUNNING"
        assert path.read_text() == f"{os.getpid()}\n"
    with InstanceLock(path):
        pass


def test_what_an_earlier_holder_left_behind_does_not_count(tmp_path) -> None:
    path = tmp_path / "keeper.lock"
    path.write_text("99999999999999999999 and more\n")
    with InstanceLock(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_releasing_twice_is_fine_and_leaks_nothing(tmp_path) -> None:
    path = tmp_path / "keeper.lock"
    before = len(os.listdir("/proc/self/fd"))
    lock = InstanceLock(path)
    with pytest.raises(Conflict):
        InstanceLock(path)
    lock.release()
    lock.release()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_place_that_cannot_be_made_is_an_os_error(tmp_path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError):
        InstanceLock(tmp_path / "run" / "keeper.lock")
