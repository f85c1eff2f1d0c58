"""A hive without a clock: it boots in 1970, and the wall clock jumps by decades while it runs.

Nothing may stop, restart, disconnect or repeat because of a date (``design.md §5`` *Time*). Once the wall
clock is bent inside the program; where libfaketime is installed (Debian: ``faketime``) it is bent below it as
well, for every library. The monotonic clock is true in both cases.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio

from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.testing.hive import PROGRAM_ENV, HiveHarness
from tests.fault.hive_load import RouteChanger, Traffic

pytestmark = [pytest.mark.process, pytest.mark.slow]

YEAR_S = 365.25 * 86_400
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
DATES = {
    "1970": 10.0,
    "1980": 10.5 * YEAR_S,
    "1970 again": 10.0,
    "2026": 56.5 * YEAR_S,
    "2036": 66.5 * YEAR_S,
    "2016": 46.5 * YEAR_S,
    "after 2038": 2.0**31 + 1000,
    "after 2106": 2.0**32 + 1000,
    "2000": 30.5 * YEAR_S,
}
"""Where the wall clock goes, in seconds since 1970: ten years forth and back, and behind 32 bits."""


@pytest.fixture(params=["in the program", "below it"] if FAKETIME else ["in the program"])
def set_clock(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, hive_folder: Path
) -> Callable[[float], None]:
    """Sets the wall clock of hives, running or not, to seconds since 1970."""
    file = hive_folder / "clock"
    program = f"{sys.executable} -m tests.fault.hive_program"
    if request.param == "below it":
        words = {
            "LD_PRELOAD": FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": file,
            "FAKETIME_NO_CACHE": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
            "TZ": "UTC",
        }
        program = " ".join(["env", *(f"{name}={value}" for name, value in words.items()), program])
    else:
        monkeypatch.setenv("FLUXBEE_TEST_CLOCK", str(file))
    monkeypatch.setenv(PROGRAM_ENV, program)

    def set_to(epoch_s: float) -> None:
        offset_s = epoch_s - time.time()
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+.0f}\n" if request.param == "below it" else str(offset_s))
        fresh.replace(file)

    return set_to


class Watched:
    """A hive under load whose clock is moved."""

    def __init__(self, hive: HiveHarness, set_clock: Callable[[float], None]) -> None:
        self.hive = hive
        self.set_clock = set_clock
        self.traffic = Traffic(hive, pairs=2, pause_s=0.02)
        self.routes = RouteChanger(hive, pause_s=0.02)

    @property
    def losses(self) -> int:
        return sum(node.losses for node in [*self.traffic.nodes, self.routes.node])

    async def run(self, dates: dict[str, float]) -> None:
        with trio.fail_after(90):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.traffic.run)
                nursery.start_soon(self.routes.run)
                for date, epoch_s in dates.items():
                    self.set_clock(epoch_s)
                    await self.works(date)
                assert self.losses == 0, "a node was disconnected by a date"
                nursery.cancel_scope.cancel()
        assert self.traffic.repeated == []
        assert self.routes.wrong == []

    async def works(self, date: str) -> None:
        """Messages and changes go through, health is well, a newcomer is welcome, upkeep has passed."""
        seen, acknowledged = self.traffic.seen, self.routes.acknowledged
        with trio.move_on_after(15) as patience:
            while (  # noqa: ASYNC110 - only looking tells
                self.traffic.seen < seen + 50 or self.routes.acknowledged < acknowledged + 3
            ):
                await trio.sleep(0.02)
            async with self.hive.connect("AI.newcomer") as node:
                assert node.is_connected
            while not await self.well():  # noqa: ASYNC110
                await trio.sleep(0.02)
            await trio.sleep(0.3)  # a flush and a sync of the journals fall into this date
            while not await self.routes.check():
                pass
        assert not patience.cancelled_caught, f"stuck at {date}\n{self.hive.log_tail()}"

    async def well(self) -> bool:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{self.hive.url}/health", timeout=5)
        return answer.status_code == 200


def planes_started(hive: HiveHarness) -> int:
    return hive.log.read_text().count("plane_starting")


@pytest.mark.parametrize("mode", ["apart", "together"])
def test_dates_stop_nothing(hive_folder: Path, mode: str, set_clock: Callable[[float], None]) -> None:
    set_clock(10.0)
    hive = HiveHarness(hive_folder, planes=mode)  # type: ignore[arg-type]
    watched = Watched(hive, set_clock)
    with hive:
        trio.run(watched.run, DATES)
    assert planes_started(hive) == (3 if mode == "apart" else 1)
    set_clock(10.0)  # the battery is empty again: what is stored comes from the future
    later = Watched(hive, set_clock)
    later.routes.known, later.routes.open = watched.routes.known, watched.routes.open
    later.routes.version = watched.routes.version
    later.traffic.numbers = watched.traffic.numbers
    with hive:
        trio.run(later.run, {"1970": 20.0})
    assert hive.log.read_text().count("configuration_loaded") > 10
    trio.run(stamps_tell_the_dates, hive)


async def stamps_tell_the_dates(hive: HiveHarness) -> None:
    """The journal's stamps are what the clock said, also behind 32 bits; nothing was trimmed for its age."""
    spec = JournalSpec(name="storage.turns", durability="relaxed")
    years, position = set(), 1
    async with await Journal.opened(hive.paths.journals / "storage.turns", spec) as journal:
        assert journal.damages == ()
        while batch := await journal.read(position, limit_records=5):
            assert batch.gap is None
            years.add(1970 + int(batch.at_ms / 1000 / YEAR_S))
            position = batch.next_seq
    assert {1970, 1980, 2026, 2036, 2016, 2000} <= years
    assert max(years) > 2100
