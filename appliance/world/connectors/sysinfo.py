"""The box as an entity of its own world: how busy, full, warm and connected it is.

A look reads ``/proc`` and ``/sys`` and costs no flash. Published is only what moved beyond its threshold, not
more often than every five looks, and everything once per quarter of an hour as a sign of life; links are
told at once. One event costs 35 kB of writes in all (measured on ext4: journal, region and metadata), so an
idle box writes 3.4 MB a day for this and a restless one 10, of the 20 that it may (``design.md §5``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["PAUSE_S", "SIGN_OF_LIFE_S", "BoxReader", "Notable"]

SIGN_OF_LIFE_S: Final = 900.0
PAUSE_S: Final = 300.0
_LINK: Final = "link_"
_MIB: Final = 1 << 20

_THRESHOLDS: Final[Mapping[str, float]] = {
    "cpu_percent": 15.0,
    "load_1m": 0.75,
    "memory_percent": 3.0,
    "disk_percent": 1.0,
    "temperature_c": 3.0,
}
_ACCOMPANY: Final = frozenset({"uptime_s"})
"""Always changes: told along with something else only."""


class BoxReader:
    """Looks at the box. Blocks on files: call it from a worker thread.

    Args:
        disk: a path on the medium that counts.
        root: where ``proc`` and ``sys`` are.
    """

    def __init__(self, disk: Path, root: Path = Path("/")) -> None:
        self._disk = disk
        self._proc = root / "proc"
        self._sys = root / "sys" / "class"
        self._busy = self._total = 0

    def read(self) -> dict[str, object]:
        """What can be seen now; what this box does not show is left out."""
        found: dict[str, object] = {}
        for look in (self._cpu, self._load, self._memory, self._space, self._temperature, self._uptime):
            with suppress(OSError, ValueError, IndexError, KeyError, ZeroDivisionError):
                found.update(look())
        with suppress(OSError):
            found.update(self._links())
        return found

    def _cpu(self) -> dict[str, object]:
        words = (self._proc / "stat").read_text().split("\n", 1)[0].split()
        ticks = [int(word) for word in words[1:9]]
        total, busy = sum(ticks), sum(ticks) - ticks[3] - ticks[4]
        spent, worked = total - self._total, busy - self._busy
        self._total, self._busy = total, busy
        return {"cpu_percent": round(min(max(100 * worked / spent, 0.0), 100.0), 1), "cores": os.cpu_count()}

    def _load(self) -> dict[str, object]:
        return {"load_1m": float((self._proc / "loadavg").read_text().split()[0])}

    def _memory(self) -> dict[str, object]:
        lines = (self._proc / "meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if ":" in line}
        total, available = sizes["MemTotal"], sizes["MemAvailable"]
        used = round(100 * (total - available) / total, 1)
        return {"memory_percent": used, "memory_mb": total // 1024}

    def _space(self) -> dict[str, object]:
        place = os.statvfs(self._disk)
        size, free = place.f_blocks * place.f_frsize, place.f_bavail * place.f_frsize
        return {"disk_percent": round(100 * (size - free) / size, 1), "disk_mb": size // _MIB}

    def _temperature(self) -> dict[str, object]:
        found = []
        for zone in sorted((self._sys / "thermal").glob("thermal_zone*/temp")):
            with suppress(OSError, ValueError):
                found.append(int(zone.read_text()) / 1000)
        return {"temperature_c": round(max(found), 1)}

    def _uptime(self) -> dict[str, object]:
        return {"uptime_s": int(float((self._proc / "uptime").read_text().split()[0]))}

    def _links(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for link in sorted((self._sys / "net").iterdir()):
            if (link / "device").exists():  # real ones, and those of a virtual machine
                with suppress(OSError):
                    found[f"{_LINK}{link.name}"] = (link / "operstate").read_text().strip()
        return found


class Notable:
    """Decides what of a look is worth an event. Sans-IO; ``now`` in monotonic seconds.

    Args:
        pause_s: least time between two events, but for links.
    """

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self._pause_s = pause_s
        self._told: dict[str, object] = {}
        self._told_at = self._alive_at = float("-inf")
        self._whole: frozenset[str] = frozenset()

    def changes(self, look: Mapping[str, object], now: float) -> dict[str, object]:
        """What to publish; empty for nothing. Call :meth:`told` when it was published."""
        self._whole = frozenset(look)
        if now >= self._alive_at + SIGN_OF_LIFE_S:
            return dict(look)
        changed = {name: value for name, value in look.items() if self._moved(name, value)}
        at_once = any(name.startswith(_LINK) for name in changed)
        if not changed or (not at_once and now < self._told_at + self._pause_s):
            return {}
        return changed | {name: look[name] for name in _ACCOMPANY & look.keys()}

    def told(self, published: Mapping[str, object], now: float) -> None:
        """``published`` is in the world."""
        self._told_at = now
        if published.keys() >= self._whole:  # everything: a sign of life
            self._alive_at = now
        self._told.update(published)

    def _moved(self, name: str, value: object) -> bool:
        if name in _ACCOMPANY:
            return False
        before, threshold = self._told.get(name), _THRESHOLDS.get(name)
        if threshold is None or not isinstance(before, int | float) or not isinstance(value, int | float):
            return before != value
        return abs(value - before) >= threshold
