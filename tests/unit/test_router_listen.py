"""The node socket: where it lies, who may open it, and what may lie in its place."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys

import pytest

from appliance.router.listen import BACKLOG, listen_for_nodes
from appliance.wire.errors import Conflict, Misconfigured, Unavailable

UUID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
FILE = UUID.replace("-", "") + ".sock"


@pytest.fixture
def listen(hive_folder):
    """Listen in a folder; whatever was opened is closed at the end."""
    opened = []

    def call(directory=hive_folder, *, mode=0o660, group="no-such-group"):
        listener = listen_for_nodes(directory, UUID, mode=mode, group=group)
        opened.append(listener)
        return listener

    yield call
    for listener in opened:
        listener.close()


def connects(path):
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def dead_socket(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_it_listens_under_its_uuid_and_makes_the_folder(hive_folder, listen):
    listener = listen(hive_folder / "run" / "routers")
    assert listener.getsockname() == str(hive_folder / "run" / "routers" / FILE)
    assert connects(listener.getsockname())
    assert not listener.getblocking()


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_file_has_the_wanted_rights_whatever_the_umask(listen, mode):
    before = os.umask(0o027)
    try:
        listener = listen(mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(listener.getsockname()).st_mode) == mode


def test_the_umask_of_the_process_is_left_as_it_was(listen):
    before = os.umask(0o031)
    try:
        listen()
        assert os.umask(0o031) == 0o031
    finally:
        os.umask(before)


@pytest.mark.privileged
def test_the_group_is_given_where_it_exists(listen):
    listener = listen(group="daemon")
    import grp

    assert os.stat(listener.getsockname()).st_gid == grp.getgrnam("daemon").gr_gid


def test_many_may_wait_to_be_accepted(listen):
    listener = listen()
    waiting = []
    try:
        for _ in range(BACKLOG):
            client = socket.socket(socket.AF_UNIX)
            waiting.append(client)
            client.setblocking(False)
            client.connect(listener.getsockname())
    finally:
        for client in waiting:
            client.close()


def test_dead_sockets_of_any_router_are_removed(hive_folder, listen):
    dead_socket(hive_folder / FILE)
    dead_socket(hive_folder / "00000000000000000000000000000001.sock")
    listen()
    assert sorted(os.listdir(hive_folder)) == [FILE]


def test_a_living_one_is_left_alone_and_a_second_on_its_place_is_refused(hive_folder, listen):
    listen()
    with pytest.raises(Conflict) as caught:
        listen()
    assert FILE in str(caught.value)
    assert "fluxbee status" in caught.value.remedy
    assert connects(hive_folder / FILE)


def test_another_router_s_living_socket_stays(hive_folder, listen):
    other = hive_folder / "00000000000000000000000000000001.sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(other))
        living.listen(1)
        listen()
        assert other.exists()


def test_one_whose_backlog_is_full_is_alive(hive_folder, listen):
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(hive_folder / FILE))
        busy.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        try:
            for client in clients:
                client.setblocking(False)
                client.connect_ex(str(hive_folder / FILE))
            with pytest.raises(Conflict):
                listen()
        finally:
            for client in clients:
                client.close()


def test_the_socket_of_a_killed_process_is_taken_over(hive_folder, listen):
    program = f"""
import os, signal, sys
from pathlib import Path
from appliance.router.listen import listen_for_nodes
listener = listen_for_nodes(Path(sys.argv[1]), {UUID!r}, mode=0o600, group="")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, str(hive_folder)], check=False)
    assert (hive_folder / FILE).exists()
    listen()
    assert connects(hive_folder / FILE)


@pytest.mark.parametrize("kind", ["file", "empty file", "dangling link", "link to a file", "fifo"])
def test_other_things_in_our_place_are_removed(hive_folder, listen, kind):
    place = hive_folder / FILE
    (hive_folder / "elsewhere").write_text("precious")
    if kind == "file":
        place.write_text("garbage")
    elif kind == "empty file":
        place.touch()
    elif kind == "dangling link":
        place.symlink_to(hive_folder / "nowhere")
    elif kind == "link to a file":
        place.symlink_to(hive_folder / "elsewhere")
    else:
        os.mkfifo(place)
    listen()
    assert connects(place)
    assert (hive_folder / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize("full", [False, True])
def test_a_directory_in_our_place_is_named_with_a_remedy(hive_folder, listen, full):
    place = hive_folder / FILE
    place.mkdir()
    if full:
        (place / "something").touch()
    with pytest.raises(Misconfigured) as caught:
        listen()
    assert str(place) in str(caught.value)
    assert "Remove that directory" in caught.value.remedy
    assert place.is_dir()


def test_a_file_where_the_folder_belongs_is_named(hive_folder, listen):
    (hive_folder / "routers").write_text("garbage")
    with pytest.raises(Unavailable) as caught:
        listen(hive_folder / "routers")
    assert str(hive_folder / "routers") in str(caught.value)
    assert caught.value.remedy


def test_a_path_that_is_too_long_for_a_socket_is_named(hive_folder, listen):
    with pytest.raises(Misconfigured) as caught:
        listen(hive_folder / ("x" * 70))
    assert "107" in str(caught.value)
    assert "shorter root" in caught.value.remedy
    assert os.listdir(hive_folder) == []


def test_a_failure_leaves_no_descriptor(hive_folder, listen):
    (hive_folder / FILE).mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(Misconfigured):
            listen()
    assert len(os.listdir("/proc/self/fd")) == before
