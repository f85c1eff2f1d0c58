"""The base images of an open state journal: writing, reading, and what may be trimmed behind them.

``Bases`` is the bookkeeping; ``Images`` binds it to the disk and to the engine. Nothing is trimmed before an
image was read back and published, and with ``keep_bases: 2`` nothing before the second one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from appliance.store.files import storage_error
from appliance.store.journal_base import read_base, write_base
from appliance.store.journal_engine import Engine
from appliance.store.journal_recover import Recovered
from appliance.store.journal_types import BaseInfo
from appliance.system.clock import Clock
from appliance.system.disk import Disk
from appliance.wire.errors import Conflict, Damaged, Invalid

__all__ = ["Bases", "Images"]

_ASIDE = "base.damaged"
"""Only one is kept: images are large."""


class Bases:
    """The images of one journal: which are kept, which segments they make superfluous.

    Args:
        known: what ``find_bases`` found, oldest first.
        keep: ``JournalSpec.keep_bases``.
    """

    def __init__(self, known: Sequence[BaseInfo], keep: int) -> None:
        self._known = list(known)
        self._keep = keep
        self.bytes_written = 0

    @property
    def known(self) -> tuple[BaseInfo, ...]:
        """Images that can be used, oldest first."""
        return tuple(self._known)

    @property
    def upto_seq(self) -> int:
        """What the newest image contains; 0 without one."""
        return self._known[-1].upto_seq if self._known else 0

    @property
    def trim_seq(self) -> int:
        """Records up to here are in every image that is meant to be kept; 0 while there are too few."""
        return self._known[-self._keep].upto_seq if len(self._known) >= self._keep else 0

    def add(self, info: BaseInfo) -> list[str]:
        """Take a new image; returns the files of those that nobody needs any more."""
        self.bytes_written += info.size
        known = [base for base in self._known if base.upto_seq != info.upto_seq]
        self._known = sorted([*known, info], key=lambda base: base.upto_seq)
        return self.retire()

    def retire(self) -> list[str]:
        """Give up images beyond those kept; returns their files."""
        gone = [base.file for base in self._known[: -self._keep]]
        self._known = self._known[-self._keep :]
        return gone

    def drop(self, info: BaseInfo) -> None:
        """Do not use this image any more."""
        self._known = [base for base in self._known if base.file != info.file]


class Images:
    """See the module.

    Args:
        engine: of the journal.
        disk: where to write.
        directory: of the journal.
        recovered: what opening found.
        clock: for stamps.
        inline: work on the caller instead of in a thread.
    """

    def __init__(
        self,
        engine: Engine,
        disk: Disk,
        directory: Path,
        recovered: Recovered,
        clock: Clock,
        *,
        inline: bool,
    ) -> None:
        self._engine = engine
        self._disk = disk
        self._directory = directory
        self._journal_id = recovered.start.journal_id
        self._clock = clock
        self._inline = inline
        self._writing = False
        self._bases = Bases(recovered.bases, engine.spec.keep_bases)
        self._trim(self._bases.retire())

    @property
    def newest(self) -> BaseInfo | None:
        """The newest image."""
        return self._bases.known[-1] if self._bases.known else None

    @property
    def upto_seq(self) -> int:
        """What the newest image contains."""
        return self._bases.upto_seq

    @property
    def bytes_written(self) -> int:
        """Bytes of images written since the journal was opened."""
        return self._bases.bytes_written

    async def write(self, upto_seq: int, records: Iterable[bytes]) -> BaseInfo:
        """See ``Journal.write_base``."""
        engine = self._engine
        if engine.spec.kind != "state":
            raise Invalid(f"journal {engine.spec.name} is a log: it has no base image", field="kind")
        if not 0 < upto_seq <= engine.committer.durable_seq:
            raise Invalid(f"record {upto_seq} of journal {engine.spec.name} is not durable", field="upto_seq")
        if self._writing:
            raise Conflict(f"a base image of journal {engine.spec.name} is being written")
        call = partial(
            write_base,
            self._disk,
            self._directory,
            self._journal_id,
            upto_seq,
            records,
            self._clock.wall_ms(),
        )
        self._writing = True
        try:
            info = call() if self._inline else await trio.to_thread.run_sync(call)
        except OSError as exc:
            raise storage_error(exc, f"base image of journal {engine.spec.name}") from exc
        finally:
            self._writing = False
        self._trim(self._bases.add(info))
        return info

    def _trim(self, files: Sequence[str]) -> None:
        self._engine.committer.shelf.discard(files)
        self._engine.committer.shelf.trim_behind(self._bases.trim_seq)
        self._engine.pump()

    def read(self) -> Iterator[list[bytes]]:
        """See ``Journal.read_base``."""
        info = self.newest
        if info is None:
            return
        try:
            yield from read_base(self._disk, self._directory, info)
        except Damaged:
            self._bases.drop(info)
            with suppress(OSError):  # it is not used any more in any case
                self._disk.rename(self._directory / info.file, self._directory / _ASIDE)
            raise
        except OSError as exc:
            raise storage_error(exc, f"base image of journal {self._engine.spec.name}") from exc
