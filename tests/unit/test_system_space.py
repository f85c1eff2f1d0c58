"""Who has little room left is named, once per file system."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.system.space import Room, rooms

MIB = 1 << 20


def disk(monkeypatch: pytest.MonkeyPatch, *, total: int, free: int) -> None:
    seen = SimpleNamespace(f_bavail=free // 4096, f_blocks=total // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda place: seen)


@pytest.mark.parametrize(
    ("total", "free", "word"),
    [
        (32_000 * MIB, 70 * MIB, None),
        (32_000 * MIB, 60 * MIB, "nearly full"),
        (100 * MIB, 6 * MIB, None),
        (100 * MIB, 4 * MIB, "nearly full"),
        (100 * MIB, MIB // 2, "is full: 512 KiB"),
        (10 * MIB, MIB // 2, "is full: 512 KiB"),
        (10 * MIB, 0, "is full: 0 KiB"),
    ],
)
def test_little_room_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int, free: int, word: str | None
) -> None:
    disk(monkeypatch, total=total, free=free)
    told = rooms((tmp_path, tmp_path.parent, tmp_path / "missing"))
    assert len(told) == (word is not None)
    assert word is None or word in str(told[0])


def test_what_is_less_than_a_megabyte_is_full() -> None:
    assert Room(Path("/x"), MIB - 1).full
    assert not Room(Path("/x"), MIB).full
