"""Children that open, write and read region environments, and die when they are told to."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

from appliance.store.region import Environment
from appliance.store.region_admit import EnvironmentSpec
from appliance.store.region_reader import RegionReader
from appliance.wire.errors import Damaged
from tests.unit.store_regions import ALIAS, EVENT, REGIONS, ROUTE, Route

__all__ = ["Child", "Hear", "Say", "filled", "verdict_in_a_child"]

Say, Hear = Callable[[str], None], Callable[[], str]


class Child:
    """A forked process that runs ``work(say, hear)``: ``say`` speaks to the test, ``hear`` waits for it.

    It ends with 0, or with 1 after a traceback when ``work`` raises.
    """

    def __init__(self, work: Callable[[Say, Hear], None]) -> None:
        self._from_child, to_parent = os.pipe()
        from_parent, self._to_child = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._from_child)
            os.close(self._to_child)
            try:
                work(
                    lambda text: (os.write(to_parent, text.encode()), None)[1],
                    lambda: os.read(from_parent, 1000).decode(),
                )
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(1)
        os.close(to_parent)
        os.close(from_parent)

    def hears(self) -> str:
        """The child's next words; empty when it has ended."""
        return os.read(self._from_child, 100_000).decode()

    def say(self, text: str) -> None:
        os.write(self._to_child, text.encode())

    def end(self) -> int:
        """Wait for the end; exit code, or the negative number of the signal."""
        os.close(self._to_child)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._from_child)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.end() == -signal.SIGKILL


def filled(directory: Path, spec: EnvironmentSpec, *, rows: int = 2000) -> None:
    """Make a complete environment with rows of every kind of table, cleanly stopped."""
    with Environment(spec, directory, REGIONS) as env:
        for number in range(0, rows, 100):
            with env.change("config", "identity", applied_seq=number + 1) as txn:
                for row in range(number, number + 100):
                    ROUTE.put(txn, row, Route(prefix=f"AI.node.{row}", metric=row))
                    EVENT.put(txn, row, bytes(50))
        with env.change("config") as txn:
            ALIAS.put(txn, "big", bytes(20_000))
            for row in range(0, rows, 3):
                ROUTE.delete(txn, row)
        for region in REGIONS:
            env.finish_rebuild(region.name)


def verdict_in_a_child(directory: Path, spec: EnvironmentSpec) -> tuple[int, str]:
    """Open the environment, read all of it, write to it, close it, all in a child.

    Returns the child's exit (negative: a signal) and what it said: ``kept`` or ``rebuilt``, for every table
    the number of rows it could read or the error, and ``damaged`` when writing found damage.
    """

    def work(say: Say, hear: Hear) -> None:
        with Environment(spec, directory, REGIONS) as env:
            words = ["kept" if env.opened.kept else "rebuilt"]
            for table in (ROUTE, ALIAS, EVENT):
                try:
                    words.append(str(sum(1 for _ in env.items(table))))
                except Damaged:
                    words.append("damaged")
            try:
                write_some(env)
            except Damaged:
                words.append("damaged")
        say(" ".join(words))

    child = Child(work)
    words = child.hears()
    return child.end(), words


def write_some(env: Environment) -> None:
    """Changes that need pages from the list of free ones, and new pages."""
    for number in range(5):
        with env.change("config", "identity") as txn:
            ROUTE.put(txn, 10_000 + number, Route(prefix="new"))
            EVENT.put(txn, 10_000 + number, bytes(5000))
            ROUTE.delete(txn, number)
    with RegionReader(env.path, REGIONS) as reader:
        assert reader.get(ROUTE, 10_000) == Route(prefix="new")
