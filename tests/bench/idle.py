"""The whole program doing nothing: how soon it is ready, and what it costs when nobody asks anything of it.

Starts the program (``--command`` names another one, the frozen program for instance), waits for
``/health``, lets it settle, and watches its process tree for twenty seconds: memory as proportional set
size, CPU time, wake-ups, bytes written. Bytes per day are extrapolated from these seconds, so what happens
once an hour is not in them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from .clients.fleet import ROOT, ClientFailed
from .clients.hive import free_port, health, stop, write_configuration
from .clients.procs import cpu_by_thread, descendants, field, growth
from .harness import Figure, at_most, compiled, note, options

__all__ = ["PARTS", "Usage", "on_tmpfs", "usage"]

START_S = 30.0
SETTLE_S = 12.0
"""Worker threads that the start used are gone after ten."""
WATCH_S = 20.0
STARTS = 3
_MIB = 1024 * 1024


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a process tree holds now; ``cpu_ns`` and ``wakeups`` by thread, since each thread started.

    By thread, because a sum would shrink when a thread ends.
    """

    processes: int
    pss_bytes: int
    written_bytes: int
    cpu_ns: dict[int, int]
    wakeups: dict[int, int]

    @property
    def threads(self) -> int:
        """How many threads there are."""
        return len(self.cpu_ns)


def usage(pid: int, *, alone: bool = False) -> Usage:
    """What the process tree of ``pid`` uses now; with ``alone`` only that process."""
    pids = [pid] if alone else descendants(pid)
    pss = written = 0
    wakeups: dict[int, int] = {}
    for one in pids:
        here = Path(f"/proc/{one}")
        try:
            pss += field(here / "smaps_rollup", "Pss:") * 1024
            written += field(here / "io", "write_bytes:")
            for thread in (here / "task").iterdir():
                wakeups[int(thread.name)] = field(thread / "status", "voluntary_ctxt_switches:")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return Usage(
        processes=len(pids), pss_bytes=pss, written_bytes=written, cpu_ns=cpu_by_thread(pids), wakeups=wakeups
    )


@contextmanager
def _program(root: Path, planes: str) -> Iterator[tuple[int, float]]:
    """The started program: its process id and how many seconds it took to be healthy."""
    port = free_port()
    config = write_configuration(root, planes=planes, routes=0, vpns=0, admin_port=port)
    default = f"{sys.executable} -m appliance run --config {{config}}"
    command = (options().command or default).format(root=root, config=config).split()
    with (root / "program.log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)
    try:
        while health(port, 0.5) != 200:
            if process.poll() is not None or time.monotonic() - began > START_S:
                tail = (root / "program.log").read_text(errors="replace")[-2000:]
                raise ClientFailed(f"{' '.join(command)} did not become healthy: {tail}")
            time.sleep(0.005)
        yield process.pid, time.monotonic() - began
    finally:
        stop(process)


def _measure(planes: str) -> list[Figure]:
    settle_s, watch_s = SETTLE_S * options().scale, max(0.5, WATCH_S * options().scale)
    with (
        tempfile.TemporaryDirectory(prefix="fluxbee-bench-idle-") as folder,
        compiled(Path(folder) / "compiled"),
    ):
        if on_tmpfs(Path(folder)):
            note(f"{folder} is in memory: bytes to disk are not counted there; set TMPDIR")
        starts: list[float] = []
        for number in range(STARTS):
            with _program(Path(folder), planes) as (_, took_s):
                starts += [took_s] if number else []  # the first one compiles
        with _program(Path(folder), planes) as (pid, took_s):
            starts.append(took_s)
            time.sleep(settle_s)
            before, began = usage(pid), time.monotonic()
            time.sleep(watch_s)
            after, seconds = usage(pid), time.monotonic() - began
    written = (after.written_bytes - before.written_bytes) / seconds * 86_400 / 1e6
    cpu = growth(before.cpu_ns, after.cpu_ns) / 1e9 / seconds * 100
    wakeups = growth(before.wakeups, after.wakeups) / seconds
    return [
        at_most("ready: start to /health 200", statistics.median(starts), "s", 0.8),
        at_most("memory, proportional set size of all processes", after.pss_bytes / _MIB, "MiB", 150),
        at_most("idle CPU, of one core", cpu, "%", 0.5),
        at_most("idle wake-ups, all threads", wakeups, "1/s"),
        at_most("idle bytes to disk", written, "MB/day", 20),
        at_most("processes", after.processes, ""),
        at_most("threads", after.threads, ""),
    ]


def on_tmpfs(path: Path) -> bool:
    """Whether ``path`` lies on a file system in memory."""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, name = line.split()[:3]
        inside = path == Path(place) or Path(place) in path.parents
        if inside and len(place) >= len(best):
            best, kind = place, name
    return kind in {"tmpfs", "ramfs"}


def together() -> list[Figure]:
    """All planes in one process under the keeper."""
    return _measure("together")


def apart() -> list[Figure]:
    """Each plane in its own process."""
    return _measure("apart")


PARTS: dict[str, Callable[[], list[Figure]]] = {"together": together, "apart": apart}
