from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.keeper.node_log import CURRENT, LogBudget
from appliance.keeper.node_outlet import NodeOutlet
from appliance.system.process import open_descriptors

AT_MS = 1_763_633_472_123


class Tap:
    """An outlet and the end that its node writes to."""

    def __init__(self, directory: Path, **numbers: int) -> None:
        self.directory = directory
        read_end, self.node = os.pipe()
        os.set_blocking(read_end, False)
        self.outlet = NodeOutlet(read_end, directory, 1 << 20, 0.0, LogBudget(**numbers))

    def text(self) -> bytes:
        return (self.directory / CURRENT).read_bytes()


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    before = open_descriptors()
    made = Tap(tmp_path, read_burst=100_000, read_rate=1000, flash_burst=5000, flash_rate=100)
    yield made
    os.close(made.node)
    made.outlet.finish(0.0, AT_MS, "ended: exit 0")
    assert open_descriptors() == before


def test_output_goes_into_the_ring(tap: Tap) -> None:
    os.write(tap.node, b"hello\n")
    tap.outlet.read(0.0, AT_MS)
    tap.outlet.read(0.0, AT_MS)
    assert tap.text() == b"2025-11-20T10:11:12.123Z hello\n"
    assert tap.outlet.written_bytes == len(tap.text())
    assert not tap.outlet.ended
    assert tap.outlet.paused_until(0.0) is None


def test_a_flood_pauses_and_its_gap_is_told_later(tap: Tap) -> None:
    for _ in range(2):
        os.write(tap.node, b"x" * 59_999 + b"\n")
        tap.outlet.read(0.0, AT_MS)
    assert tap.outlet.paused_until(0.0) is not None
    assert tap.outlet.pauses == 1
    assert tap.outlet.cut_lines == 2
    due = tap.outlet.next_deadline(0.0)
    assert due is not None
    tap.outlet.tick(due + 0.1, AT_MS)
    assert tap.text().endswith(b"bytes of output dropped here]\n")
    assert tap.outlet.dropped_bytes > 100_000


def test_the_end_reads_what_is_left(tmp_path: Path) -> None:
    tap = Tap(tmp_path)
    os.write(tap.node, b"one\n" * 15_000 + b"last words")
    os.close(tap.node)
    tap.outlet.finish(0.0, AT_MS, "ended: exit 0")
    assert tap.text().count(b" one\n") == 15_000
    assert tap.text().endswith(b" last words\n2025-11-20T10:11:12.123Z [fluxbee: ended: exit 0]\n")
    assert tap.outlet.ended


def test_the_end_does_not_wait_for_whoever_still_holds_the_pipe(tmp_path: Path) -> None:
    tap = Tap(tmp_path)
    os.write(tap.node, b"said\n")
    tap.outlet.finish(0.0, AT_MS, "ended: exit 0")
    assert tap.text().splitlines()[0].endswith(b" said")
    assert not tap.outlet.ended
    os.close(tap.node)


def test_a_closed_pipe_is_an_end(tmp_path: Path) -> None:
    tap = Tap(tmp_path)
    os.close(tap.node)
    tap.outlet.read(0.0, AT_MS)
    assert tap.outlet.ended
    tap.outlet.finish(0.0, AT_MS, "ended: exit 0")
