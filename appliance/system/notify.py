"""Tell systemd how we are: READY, STATUS, WATCHDOG, STOPPING, as datagrams to ``$NOTIFY_SOCKET``.

Without the variable nothing happens. Nothing here raises or blocks: a datagram that cannot be sent is
counted, because a service manager that does not listen is no reason to stop serving. The process that systemd
started speaks (the keeper); nodes and planes do not get the variable.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

import msgspec

__all__ = ["NOTIFY_VARIABLES", "Notifier", "NotifyStatistics"]

NOTIFY_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables that a child must not inherit, or it could speak for us."""

_USEC = re.compile(r"[1-9][0-9]{0,17}")

MAX_STATUS_CHARS = 400
"""systemd shows one line; the rest would only make the datagram larger."""


class NotifyStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Datagrams sent and failed since start."""

    sent: int
    failed: int


class Notifier:
    """One end of the notification protocol (``sd_notify(3)``).

    Args:
        address: path of the socket, or ``@name`` in the abstract name space; ``None`` or empty: do nothing.
        watchdog_interval_s: how often :meth:`watchdog` is due, ``None`` when systemd does not watch.
    """

    def __init__(self, address: str | None = None, *, watchdog_interval_s: float | None = None) -> None:
        self._socket: socket.socket | None = None
        self._address = b""
        self._sent = self._failed = 0
        self.watchdog_interval_s = watchdog_interval_s if address else None
        if not address or address[0] not in "/@":
            self._failed += bool(address)
            return
        # "@name" stands for an abstract socket, whose real name starts with a zero byte.
        name = os.fsencode(address)
        self._address = b"\0" + name[1:] if address[0] == "@" else name
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        except OSError:
            self._failed += 1

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Notifier:
        """The notifier that systemd asked this process for; half of WATCHDOG_USEC is our interval.

        Args:
            environ: variables; ``None`` means this process's.
        """
        environ = os.environ if environ is None else environ
        interval_s: float | None = None
        pid = environ.get("WATCHDOG_PID", "")
        usec = environ.get("WATCHDOG_USEC", "")
        if _USEC.fullmatch(usec) and pid in ("", str(os.getpid())):
            interval_s = int(usec) / 2_000_000
        return cls(environ.get("NOTIFY_SOCKET"), watchdog_interval_s=interval_s)

    @property
    def listening(self) -> bool:
        """Whether anybody asked to be told."""
        return self._socket is not None

    def ready(self, status: str = "") -> bool:
        """Start-up is finished. Every method returns whether the datagram was sent."""
        return self._send("READY=1", status)

    def stopping(self, status: str = "") -> bool:
        """Shutdown has begun."""
        return self._send("STOPPING=1", status)

    def status(self, status: str) -> bool:
        """One line for ``systemctl status``."""
        return self._send("", status)

    def watchdog(self) -> bool:
        """Still alive; due every ``watchdog_interval_s``."""
        return self._send("WATCHDOG=1", "")

    def extend_timeout(self, seconds: float) -> bool:
        """Start or stop takes up to ``seconds`` more; repeat while it goes on."""
        return self._send(f"EXTEND_TIMEOUT_USEC={max(0, int(seconds * 1_000_000))}", "")

    def statistics(self) -> NotifyStatistics:
        """Counts since start."""
        return NotifyStatistics(sent=self._sent, failed=self._failed)

    def close(self) -> None:
        """Stop talking; later calls do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, assignment: str, status: str) -> bool:
        if self._socket is None:
            return False
        line = "".join(char if char.isprintable() else " " for char in status)[:MAX_STATUS_CHARS]
        parts = [part for part in (assignment, f"STATUS={line}" if line or not assignment else "") if part]
        try:
            self._socket.sendto("\n".join(parts).encode("utf-8", "replace"), self._address)
        except (OSError, ValueError):
            self._failed += 1
            return False
        self._sent += 1
        return True
