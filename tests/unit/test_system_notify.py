"""sd_notify over real datagram sockets; silence without one, and no error ever."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.system.notify import MAX_STATUS_CHARS, NOTIFY_VARIABLES, Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The service manager's end, as ``NOTIFY_SOCKET`` names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@fluxbee-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("\0" + name[1:] if name.startswith("@") else name)
        end.settimeout(5)
        yield name, end


def test_every_word(manager: tuple[str, socket.socket]) -> None:
    name, end = manager
    notifier = Notifier(name)
    assert notifier.listening
    for sent, expected in (
        (notifier.ready("3 planes"), "READY=1\nSTATUS=3 planes"),
        (notifier.ready(), "READY=1"),
        (notifier.status("12 nodes"), "STATUS=12 nodes"),
        (notifier.status(""), "STATUS="),
        (notifier.watchdog(), "WATCHDOG=1"),
        (notifier.extend_timeout(1.5), "EXTEND_TIMEOUT_USEC=1500000"),
        (notifier.stopping(), "STOPPING=1"),
    ):
        assert sent
        assert end.recv(4096).decode() == expected
    assert notifier.statistics().sent == 7
    notifier.close()
    assert not notifier.ready()


def test_a_status_cannot_add_an_assignment(manager: tuple[str, socket.socket]) -> None:
    name, end = manager
    notifier = Notifier(name)
    notifier.status("fine\nMAINPID=1\0\udcff" + "x" * 1000)
    assert end.recv(4096).decode() == ("STATUS=fine MAINPID=1  " + "x" * 1000)[: 7 + MAX_STATUS_CHARS]
    notifier.close()


def test_the_environment(manager: tuple[str, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager[0])
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    notifier = Notifier.from_environment()
    assert notifier.watchdog_interval_s == 15.0
    assert notifier.watchdog()
    notifier.close()


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [
        ("2000000", "", 1.0),
        ("2000000", str(os.getpid()), 1.0),
        ("2000000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("soon", "", None),
        ("-5", "", None),
        ("9" * 5000, "", None),
    ],
)
def test_the_watchdog_is_ours_or_nobodys(
    usec: str, pid: str, interval_s: float | None, tmp_path: Path
) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    notifier = Notifier.from_environment(environ)
    assert notifier.watchdog_interval_s == interval_s
    notifier.close()


@pytest.mark.parametrize("address", [None, ""])
def test_without_a_socket_nothing_happens(address: str | None) -> None:
    notifier = Notifier(address, watchdog_interval_s=1)
    assert not notifier.listening
    assert not notifier.ready()
    assert notifier.watchdog_interval_s is None
    assert (notifier.statistics().sent, notifier.statistics().failed) == (0, 0)


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody-listens-here", "/" + "x" * 200, "/a\0b"])
def test_a_manager_that_is_away_is_counted(address: str) -> None:
    notifier = Notifier(address)
    assert not notifier.ready()
    assert notifier.statistics().failed == 1
    notifier.close()


def test_a_relative_address_is_refused_and_counted() -> None:
    notifier = Notifier("notify")
    assert not notifier.listening
    assert notifier.statistics().failed == 1


def test_a_manager_that_does_not_read_blocks_nobody(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier(manager[0])
    while notifier.watchdog():
        pass
    assert notifier.statistics().failed == 1
    notifier.close()


def test_children_must_not_speak_for_us() -> None:
    assert "NOTIFY_SOCKET" in NOTIFY_VARIABLES
