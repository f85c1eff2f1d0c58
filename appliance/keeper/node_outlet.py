"""One node's output on its way from the pipe into the log ring, read within the keeper's loop.

Binds :class:`LogIntake` and :class:`LogRing` to a descriptor. Per turn one read of at most 64 KiB, so many
nodes share a turn fairly; while the intake wants no more, the pipe is not read and its writer waits.
"""

from __future__ import annotations

import os
from pathlib import Path

from appliance.keeper.node_log import LogBudget, LogIntake, LogRing, time_text

__all__ = ["NodeOutlet"]

_READ_BYTES = 65_536
_LAST_READS = 32
"""A pipe holds 64 KiB unless its writer made it larger (1 MiB at most); what a straggler that got away
writes on does not hold the end up."""


class NodeOutlet:
    """Reads ``fd`` (non-blocking; owned from now on) and writes the ring.

    Args:
        fd: read end of a node's stdout and stderr.
        directory: of the ring.
        size_bytes: of the ring.
        now: monotonic seconds.
        budget: numbers.
    """

    def __init__(
        self, fd: int, directory: Path, size_bytes: int, now: float, budget: LogBudget | None = None
    ) -> None:
        self.fd = fd
        self.ended = False
        self.pauses = 0
        self._intake = LogIntake(budget or LogBudget(), now)
        self._ring = LogRing(directory, size_bytes)

    def read(self, now: float, at_ms: int) -> None:
        """Take what is there, once."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
            return
        self._write(self._intake.feed(data, now, at_ms))
        self.pauses += self.paused_until(now) is not None

    def tick(self, now: float, at_ms: int) -> None:
        """What time alone brings."""
        self._write(self._intake.tick(now, at_ms))

    def note(self, text: str, at_ms: int) -> None:
        """Write a line of the keeper's own, such as that the node started: an empty log explains nothing."""
        self._write(f"{time_text(at_ms)} [fluxbee: {text}]\n".encode())

    def finish(self, now: float, at_ms: int, how: str) -> None:
        """The node is gone: read what is left, write ``how`` it ended, close."""
        for _ in range(_LAST_READS):
            before = self._intake.read_bytes
            if not self.ended:
                self.read(now, at_ms)
            if self.ended or self._intake.read_bytes == before:
                break
        self._write(self._intake.finish(now, at_ms))
        self.note(how, at_ms)
        self._ring.close()
        os.close(self.fd)

    def paused_until(self, now: float) -> float | None:
        """Until when the pipe is not to be read; ``None`` when it is."""
        return self._intake.read_again_at(now)

    def next_deadline(self, now: float) -> float | None:
        """When ``tick`` has something to write."""
        return self._intake.next_deadline(now)

    @property
    def dropped_bytes(self) -> int:
        """Output that was not kept, whatever the reason."""
        return self._intake.dropped_bytes + self._ring.lost_bytes

    @property
    def cut_lines(self) -> int:
        """Lines that were too long."""
        return self._intake.cut_lines

    @property
    def written_bytes(self) -> int:
        """Bytes written to flash."""
        return self._ring.written_bytes

    @property
    def write_errors(self) -> int:
        """Writes that the disk refused."""
        return self._ring.write_errors

    def _write(self, data: bytes) -> None:
        if data:
            self._ring.write(data)
