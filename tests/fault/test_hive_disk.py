"""A hive whose medium is full, failing or read-only routes on, says so, refuses changes and loses nothing."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.store.replay import replay
from appliance.testing.faultdisk import CrashDisk, FaultDisk
from appliance.testing.hive import PROGRAM_ENV, HiveHarness
from appliance.wire.errors import Unavailable
from tests.fault.hive_load import RouteChanger, Traffic

pytestmark = [pytest.mark.process, pytest.mark.slow]

MODES = ("apart", "together")
RECOVERY_S = 40.0
"""A journal looks again after 1, 2, 4 … at most 30 s whether its medium takes writes."""


class Patient:
    """A hive under load whose medium falls ill and gets well again."""

    def __init__(self, hive: HiveHarness) -> None:
        self.hive = hive
        self.traffic = Traffic(hive, pairs=2, pause_s=0.02)
        self.routes = RouteChanger(hive, pause_s=0.02)

    def run(self, body: Callable[[], Awaitable[None]]) -> None:
        async def loaded() -> None:
            with trio.fail_after(120):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.traffic.run)
                    nursery.start_soon(self.routes.run)
                    await self.until(self.routed)
                    await body()
                    nursery.cancel_scope.cancel()

        trio.run(loaded)
        assert self.traffic.repeated == []
        assert self.routes.wrong == []

    async def until(self, wanted: Callable[[], Awaitable[bool]], within_s: float = 15.0) -> None:
        with trio.move_on_after(within_s):
            while not await wanted():  # noqa: ASYNC110 - only asking tells
                await trio.sleep(0.05)
            return
        raise AssertionError(f"not {wanted} within {within_s} s\n{self.hive.log_tail(60)}")

    async def routed(self) -> bool:
        """Whether messages arrive at this moment, everybody being connected."""
        before = self.traffic.seen
        await trio.sleep(0.1)
        nodes = [*self.traffic.nodes, self.routes.node]
        return self.traffic.seen > before and all(node.connected for node in nodes)

    async def health(self) -> tuple[int, list[str]]:
        try:
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"{self.hive.url}/health", timeout=5)
        except httpx.TransportError:
            return 0, []
        return answer.status_code, answer.json().get("reasons", [])

    async def ill(self, words: str) -> bool:
        """Whether /health says 503 and names the reason for a journal of both planes."""
        code, reasons = await self.health()
        named = " ".join(reasons)
        return code == 503 and words in named and "journal threads" in named

    async def well(self) -> bool:
        return (await self.health())[0] == 200

    async def refused(self) -> bool:
        """Whether a change of routes was refused since the last look."""
        count = self.routes.refused.pop("PERSIST_FAILED", 0)
        unexpected = set(self.routes.refused) - {"NODE_NOT_FOUND", "NOT_FOUND", "APPLY_FAILED"}
        assert not unexpected, unexpected
        return count > 0

    async def acknowledged(self) -> bool:
        before = self.routes.acknowledged
        await trio.sleep(0.1)
        return self.routes.acknowledged > before

    async def agree(self) -> bool:
        return await self.routes.check()

    async def suffer(self, words: str) -> None:
        """What must hold while the medium takes no writes, also for planes that are killed meanwhile."""
        await self.until(partial(self.ill, words))
        await self.until(self.routed)
        await self.until(self.refused)
        await self.until(self.agree)
        for plane in ("data", "control"):
            self.hive.kill_plane(plane)
            await trio.sleep(0.3)
            await self.until(self.routed)
            await self.until(self.agree)
        await self.until(partial(self.ill, words))

    async def recover(self) -> None:
        await self.until(self.well, RECOVERY_S)
        await self.until(self.routed)
        await self.until(self.acknowledged)
        await self.until(self.agree)


async def stored_routes(hive: HiveHarness) -> set[str]:
    """Prefixes of the last document in the journal, which must be undamaged."""
    spec = JournalSpec(name="config.routes", kind="state")
    last = b""
    async with await Journal.opened(hive.paths.journals / "config.routes", spec) as journal:
        assert journal.damages == ()
        async for part in replay(journal):
            assert isinstance(part, list), part
            last = part[-1][1]
    return {route["prefix"] for route in msgspec.json.decode(last)["routes"]}


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_a_refused_record_does_not_come_back_with_the_next_process(part: float) -> None:
    """The device may take all of a group before it says that it is full."""
    place, spec = Path("/journal"), JournalSpec(name="config.routes", kind="state")
    disk = CrashDisk()

    async def refuse() -> CrashDisk:
        faulty = FaultDisk(disk, only=frozenset({"pwrite"}), part=part)
        async with Journal.open(place, spec, disk=faulty, inline=True) as journal:
            await journal.append(b"acknowledged")
            faulty.fail_at, faulty.sticky = len(faulty.calls), True
            with pytest.raises(Unavailable):
                await journal.append(b"refused")
            return disk.after_kill()

    async def read(found: CrashDisk) -> list[bytes]:
        async with Journal.open(place, spec, disk=found, inline=True) as journal:
            return (await journal.read(1)).records

    assert trio.run(read, trio.run(refuse)) == [b"acknowledged"]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, hive_folder: Path) -> Path:
    """The program with an eager keeper; returns the flag file that makes its medium fail."""
    flag = hive_folder / "fault"
    monkeypatch.setenv(PROGRAM_ENV, f"{sys.executable} -m tests.fault.hive_program")
    monkeypatch.setenv("FLUXBEE_TEST_FAULT", str(flag))
    return flag


@contextmanager
def mounted(place: Path, *words: str) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *words, str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO], ids=errno.errorcode.get)
def test_a_medium_that_fails_and_gets_well(hive_folder: Path, program: Path, mode: str, error: int) -> None:
    hive = HiveHarness(hive_folder, planes=mode)  # type: ignore[arg-type]
    patient = Patient(hive)
    fails, works = partial(program.write_text, str(error)), program.unlink

    async def body() -> None:
        fails()
        await patient.suffer(os.strerror(error))
        works()
        await patient.recover()

    with hive:
        patient.run(body)
    assert patient.routes.known <= trio.run(stored_routes, hive) | patient.routes.open


@pytest.mark.privileged
@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("mode", MODES)
def test_a_full_disk_is_survived_and_space_is_used_again(hive_folder: Path, mode: str) -> None:
    hive = HiveHarness(hive_folder, planes=mode)  # type: ignore[arg-type]
    patient = Patient(hive)
    filler = hive.paths.lib / "filler"

    async def fill() -> None:
        """Take every block, also those that are freed meanwhile."""
        with filler.open("ab", buffering=0) as file:
            while True:
                with suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                await trio.sleep(0.02)

    async def body() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill)
            await patient.suffer("No space left")
            nursery.cancel_scope.cancel()
        filler.unlink()
        await patient.recover()

    with mounted(hive.paths.lib, "-t", "tmpfs", "-o", "size=24m", "none"):
        with hive:
            patient.run(body)
        assert patient.routes.known <= trio.run(stored_routes, hive) | patient.routes.open


def remount_read_only(place: str) -> None:
    """As soon as the planes of a killed keeper have gone and hold no file open any more."""
    deadline = time.monotonic() + 10
    while subprocess.run(["mount", "-o", "remount,ro", place], capture_output=True).returncode != 0:
        assert time.monotonic() < deadline, "somebody still writes there"
        time.sleep(0.02)


@pytest.mark.privileged
@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("mode", MODES)
def test_a_hive_starts_on_a_read_only_medium_and_gets_well_when_it_is_writable(
    hive_folder: Path, mode: str
) -> None:
    """Unclean before: the journals' tails cannot be repaired, the regions not be opened for writing."""
    hive = HiveHarness(hive_folder, planes=mode)  # type: ignore[arg-type]
    patient = Patient(hive)
    lib = str(hive.paths.lib)

    async def work() -> None:
        await patient.until(patient.acknowledged)
        hive.kill()

    async def body() -> None:
        await patient.suffer("Read-only")
        await trio.run_process(["mount", "-o", "remount,rw", lib])
        await patient.recover()

    with mounted(hive.paths.lib, "-t", "tmpfs", "-o", "size=64m", "none"):
        hive.start()
        patient.run(work)
        remount_read_only(lib)
        with hive:
            patient.run(body)
        assert patient.routes.known <= trio.run(stored_routes, hive) | patient.routes.open


def spoil(place: Path) -> None:
    """Tell ext4 that it found an error."""
    device = os.stat(place).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")


def _has_loop_devices() -> bool:
    with suppress(OSError):
        return os.geteuid() == 0 and subprocess.run(["losetup", "-f"], capture_output=True).returncode == 0
    return False


@pytest.mark.privileged
@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("mode", MODES if _has_loop_devices() else ())
def test_a_file_system_that_turns_read_only_under_load(hive_folder: Path, tmp_path: Path, mode: str) -> None:
    """As ext4 does on the first error of a worn card."""
    image = tmp_path / "card"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    hive = HiveHarness(hive_folder, planes=mode)  # type: ignore[arg-type]
    patient = Patient(hive)

    async def body() -> None:
        await patient.until(patient.acknowledged)
        spoil(hive.paths.lib)
        await patient.suffer("Read-only")

    options = ("-o", "loop,errors=remount-ro", str(image))
    with mounted(hive.paths.lib, *options), hive:
        patient.run(body)
    subprocess.run(["e2fsck", "-fy", str(image)], check=False, capture_output=True)
    with mounted(hive.paths.lib, *options):
        with hive:
            patient.run(patient.recover)
        assert patient.routes.known <= trio.run(stored_routes, hive) | patient.routes.open
