"""Named sources: installed Singer taps, run as supervised children (``spec/flux-state.md §5.6``, CN-23…26).

Only what the setting ``world.taps`` lists is ever executed; a request names an entry of that list and
nothing else. A run discovers, selects everything, and publishes what the tap prints. Where it continues is
kept in a file of the state directory that is replaced only after every event before that point was taken by
the world. Configuration, catalogue and a copy of the state lie in a private folder for as long as the run
lasts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from appliance.store.files import durable_replace, storage_error
from appliance.system.log import get_logger
from appliance.wire.errors import Busy, Invalid, Unreachable
from appliance.world.types import INTERNAL, Caller

from .book import Secrets
from .publishing import Publisher
from .records import NamedSource
from .singer import Batch, Singer, catalog_of
from .tapchild import TapChild, TapLaunch, TapLimits, started
from .taplist import CONFIG_OWNER, FLUX_OWNER, checked_program
from .tapwords import ended_words, redacted, secrets_of

__all__ = ["NamedTap", "TapPlaces", "TapTotals"]

_CATALOG_BYTES: Final = 16 << 20
_DISCOVER_S: Final = 120.0
_SAVE_S: Final = 60.0
_PATIENCE_S: Final = 30.0
_USAGE: Final = "exit 2"

T = TypeVar("T")
log = get_logger("world")


class TapPlaces(msgspec.Struct, frozen=True, kw_only=True):
    """Where taps have their files.

    Args:
        states: durable, one file per source.
        runs: private folders of runs; on a medium that a reboot may take.
    """

    states: Path
    runs: Path

    def clear(self) -> None:
        """Remove what a killed process left; blocks."""
        shutil.rmtree(self.runs, ignore_errors=True)

    def forget(self, source_id: str) -> None:
        """Remove the state of a source that is gone; blocks."""
        with suppress(OSError):
            (self.states / f"{source_id}.json").unlink(missing_ok=True)


class TapTotals:
    """Counts of all taps since the start; named as in ``ConnectorStatistics``."""

    def __init__(self) -> None:
        self.tap_runs = self.tap_records = self.tap_refused = 0
        self.tap_noise_lines = self.tap_collisions = self.tap_state_bytes = 0


class NamedTap:
    """Runs one source (a ``Poller``).

    Args:
        source: which.
        taps: what may be run, by name.
        places: for its files.
        limits: of a run.
        publisher: takes events.
        secrets: owner to what is stored for it.
        files: limits work on files.
        totals: counts.
    """

    def __init__(
        self,
        source: NamedSource,
        taps: Mapping[str, str],
        places: TapPlaces,
        limits: TapLimits,
        publisher: Publisher,
        secrets: Callable[[str], Secrets | None],
        files: trio.CapacityLimiter,
        totals: TapTotals,
    ) -> None:
        self._source = source
        self._taps = taps
        self._folder = places.runs / source.source_id
        self._state_file = places.states / f"{source.source_id}.json"
        self._limits = limits
        self._publisher = publisher
        self._secrets = secrets
        self._files = files
        self._totals = totals

    async def poll(self) -> None:
        """Run the tap once.

        Raises:
            Refused: it is not listed any more, or its program is not one that may be run.
            Unreachable: it failed, or took too long; with the last of what it said.
            Invalid: some of what it said could not be used.
            Busy, Unavailable, Damaged: the world, the disk or the store of secrets does not serve.
        """
        config = self._secrets(CONFIG_OWNER)
        if config is None:
            raise Invalid("the configuration of this source is gone; add it anew", field="config_json")
        self._totals.tap_runs += 1
        hidden = list(secrets_of(config, self._secrets(FLUX_OWNER)))
        try:
            program = await self._on_files(lambda: checked_program(self._source.tap_name, self._taps))
            has_state = await self._on_files(lambda: self._prepare(config.access))
            with trio.move_on_after(self._limits.timeout_s) as deadline:
                await self._run(program, hidden, has_state=has_state)
            if deadline.cancelled_caught:
                raise Unreachable(
                    f"{self._source.tap_name} was killed after {self._limits.timeout_s:g} s", code="TIMEOUT"
                )
        finally:
            with trio.CancelScope(shield=True):
                await self._on_files(lambda: shutil.rmtree(self._folder, ignore_errors=True))

    async def _on_files(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._files)

    def _prepare(self, config: str) -> bool:
        """The private folder with its files; whether there is a state to go on from."""
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700)
            write_private(self._folder / "config.json", config.encode())
            state = self._state_file.read_bytes() if self._state_file.is_file() else b""
            if state:
                write_private(self._folder / "state.json", state)
        except OSError as error:
            raise storage_error(error, str(self._folder)) from error
        return bool(state)

    def _argv(self, program: str, *more: str) -> tuple[str, ...]:
        return (program, "--config", "config.json", *more)

    async def _run(self, program: str, hidden: list[str], *, has_state: bool) -> None:
        catalog = await self._discover(program)
        options: tuple[str, ...] = ()
        if catalog is not None:
            await self._on_files(lambda: write_private(self._folder / "catalog.json", catalog))
            options = ("--properties", "catalog.json")
        state = ("--state", "state.json") if has_state else ()
        exit_, tail, reader = await self._read(self._argv(program, *options, *state))
        if exit_ == _USAGE and options and not reader.records:  # newer taps know the option by this name only
            options = ("--catalog", "catalog.json")
            exit_, tail, reader = await self._read(self._argv(program, *options, *state))
        self._report(reader)
        if exit_ != "exit 0":
            raise Unreachable(f"{self._source.tap_name} {ended_words(exit_)}{redacted(tail, hidden)}")
        if reader.refused:
            reason = redacted(reader.refusal, hidden)
            raise Invalid(f"{reader.refused} of what the tap said could not be used{reason}", field="record")

    async def _discover(self, program: str) -> bytes | None:
        """What ``--discover`` prints, all of it selected; ``None`` when the tap does not know that."""
        found = bytearray()
        async with started(self._launch(self._argv(program, "--discover"))) as child:
            with trio.move_on_after(_DISCOVER_S):
                while (data := await child.read()) != b"" and len(found) <= _CATALOG_BYTES:
                    found += data or b""
                if len(found) <= _CATALOG_BYTES:
                    await child.done.wait()
        if child.exit != "exit 0" or len(found) > _CATALOG_BYTES:
            return None
        return await self._on_files(lambda: catalog_of(bytes(found)))

    def _launch(self, argv: tuple[str, ...]) -> TapLaunch:
        return TapLaunch(argv=argv, cwd=self._folder, limits=self._limits)

    async def _read(self, argv: tuple[str, ...]) -> tuple[str, str, Singer]:
        source = self._source
        reader = Singer(source.tap_name, source.namespace, source.entity_key_field)
        async with started(self._launch(argv)) as child:
            keeper = _StateKeeper(self._state_file, self._files, self._totals)
            try:
                await self._pump(child, reader, keeper)
                await child.done.wait()
            finally:
                # What the world has taken stays taken, however the run ends.
                with trio.CancelScope(shield=True):
                    await keeper.save()
        return child.exit, child.tail, reader

    async def _pump(self, child: TapChild, reader: Singer, keeper: _StateKeeper) -> None:
        while True:
            data = await child.read()
            if data is None:  # what waits is published meanwhile
                await self._publish(reader, reader.take(), keeper)
                continue
            batches = reader.feed(data) if data else [reader.end()]
            for batch in batches:
                await self._publish(reader, batch, keeper)
            if not data:
                return

    async def _publish(self, reader: Singer, batch: Batch, keeper: _StateKeeper) -> None:
        if batch.events:
            flux = self._secrets(FLUX_OWNER)
            caller = INTERNAL if flux is None else Caller(token=flux.access)
            try:
                await self._patiently(batch, caller)
            except Invalid as error:
                reader.refuse(error.message)
        if batch.state is not None and not reader.refused:
            await keeper.hold(batch.state)

    async def _patiently(self, batch: Batch, caller: Caller) -> None:
        """The tap waits while the world is busy; the run's deadline ends that."""
        while True:
            try:
                await self._publisher.publish(batch.events, caller)
            except Busy as error:
                await trio.sleep(min(max(error.retry_after_s, 0.1), _PATIENCE_S))
            else:
                return

    def _report(self, reader: Singer) -> None:
        totals = self._totals
        totals.tap_records += reader.records
        totals.tap_refused += reader.refused
        totals.tap_noise_lines += reader.noise
        totals.tap_collisions += reader.collisions
        if reader.collisions:
            log.warning(
                "tap_keys_collide",
                code="WORLD_TAP_KEYS_COLLIDE",
                tap=self._source.tap_name,
                namespace=self._source.namespace,
                count=reader.collisions,
            )


class _StateKeeper:
    """Writes the newest state that may be kept: at the end, and now and then on the way."""

    def __init__(self, file: Path, files: trio.CapacityLimiter, totals: TapTotals) -> None:
        self._file = file
        self._files = files
        self._totals = totals
        self._state: bytes | None = None
        self._saved_at = trio.current_time()

    async def hold(self, state: bytes) -> None:
        """Every event before ``state`` was taken."""
        self._state = state
        if trio.current_time() >= self._saved_at + _SAVE_S:
            await self.save()

    async def save(self) -> None:
        """Write what is held.

        Raises:
            Unavailable: the disk does not take it; the old state is in force.
        """
        state, self._state = self._state, None
        self._saved_at = trio.current_time()
        if state is not None:
            self._totals.tap_state_bytes += await trio.to_thread.run_sync(
                _replace_changed, self._file, state, limiter=self._files
            )


def _replace_changed(file: Path, state: bytes) -> int:
    try:
        if file.is_file() and file.read_bytes() == state:
            return 0
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(file)) from error
    return durable_replace(file, state, 0o600)


def write_private(path: Path, data: bytes) -> None:
    """Create a file that only we read; blocks.

    Raises:
        OSError: it exists, or cannot be written.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
