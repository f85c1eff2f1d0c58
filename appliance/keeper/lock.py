"""One keeper per run directory: an advisory lock that the kernel drops when its holder ends.

The file holds the pid for people; the lock, not the file, decides. The file is never removed: removing a
locked file lets two keepers lock two files of one name.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from appliance.wire.errors import Conflict

__all__ = ["InstanceLock"]


class InstanceLock:
    """A held lock; a context manager that releases it.

    Args:
        path: the lock file; missing directories are made.

    Raises:
        Conflict: another process holds it; the message names its pid.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise Conflict(
                f"fluxbee runs here already: process {holder} holds {path}",
                code="ALREADY_RUNNING",
                remedy="Stop the running one first, or give this one another root.",
            ) from None
        except OSError:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Empty the file and let the lock go; releasing twice is fine."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1
