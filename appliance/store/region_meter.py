"""How many bytes this thread handed to the kernel for writing.

Flash wears by bytes written, and LMDB does not say how many pages a commit wrote. Linux counts them per
thread (``wchar`` in ``/proc/thread-self/io``), and a commit writes in the thread that calls it. Where the
kernel or the process's rights do not allow a look, the meter says so and the caller counts its payload.
"""

from __future__ import annotations

import os
import threading

__all__ = ["ThreadWriteMeter"]

_FIELD = b"wchar: "


class ThreadWriteMeter:
    """Reads the calling thread's counter; each thread keeps its own descriptor."""

    __slots__ = ("_local",)

    def __init__(self) -> None:
        self._local = threading.local()

    def read(self) -> int | None:
        """Bytes passed to write calls by this thread since it started, or ``None`` when nobody tells."""
        file = getattr(self._local, "file", None)
        if file is None or file.pid != os.getpid():
            file = self._local.file = _Counter()
        return file.read()


class _Counter:
    def __init__(self) -> None:
        self.pid = os.getpid()
        try:
            self.fd = os.open("/proc/thread-self/io", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.fd = -1

    def read(self) -> int | None:
        if self.fd < 0:
            return None
        try:
            text = os.pread(self.fd, 512, 0)
        except OSError:
            return None
        at = text.find(_FIELD)
        return None if at < 0 else int(text[at + len(_FIELD) : text.index(b"\n", at)])

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
