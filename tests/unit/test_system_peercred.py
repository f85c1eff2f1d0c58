from __future__ import annotations

import os
import socket

import pytest

from appliance.system.peercred import PeerCredentials, peer_credentials


def test_names_the_process_that_made_the_pair() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert peer_credentials(left) == PeerCredentials(os.getpid(), os.getuid(), os.getgid())


def test_names_the_client_of_a_listening_socket(tmp_path) -> None:
    path = str(tmp_path / "door.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                    client.connect(path)
                    os.read(read_end, 1)  # until the parent has looked
            finally:
                os._exit(0)
        listener.settimeout(5)
        accepted, _ = listener.accept()
        with accepted:
            assert peer_credentials(accepted).pid == child
            os.write(write_end, b"x")
            os.waitpid(child, 0)
            # The kernel's note outlives the process: callers must not take it for a living one.
            assert peer_credentials(accepted).pid == child
        os.close(read_end)
        os.close(write_end)


def test_refuses_a_socket_of_another_family() -> None:
    with socket.socket(socket.AF_INET) as tcp, pytest.raises(ValueError, match="Unix sockets only"):
        peer_credentials(tcp)


def test_a_closed_socket_is_an_os_error() -> None:
    left, right = socket.socketpair()
    left.close()
    right.close()
    with pytest.raises(OSError):
        peer_credentials(left)
