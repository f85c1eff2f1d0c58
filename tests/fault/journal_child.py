"""A process that is there to be killed: writes a journal and says on standard output what was acknowledged.

``python -m tests.fault.journal_child DIRECTORY``: for every line ``MODE LIFE`` on standard input, fork a
child (starting Python anew would cost more than writing), print its process id, and let it append until it
is killed. MODE is ``durable`` (eight tasks, awaited appends) or ``through`` (through to the page cache).
An acknowledged record is printed as one line: the record itself.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import trio

from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec

__all__ = ["SPECS", "main"]

SPECS = {
    "durable": JournalSpec(name="durable", segment_bytes=64 << 10, zero_ahead_bytes=16 << 10),
    "through": JournalSpec(
        name="through",
        durability="relaxed",
        segment_bytes=64 << 10,
        flush_interval_s=0.002,
        sync_interval_s=0.01,
    ),
}


def say(*records: bytes) -> None:
    os.write(1, b"".join(record.rstrip(b".") + b"\n" for record in records))


async def durable(journal: Journal, life: str) -> None:
    async def appender(task: int) -> None:
        for number in itertools.count():
            records = [
                f"{life}:{task}:{number}:{part}:".encode() + b"." * (number * 131 % 1500)
                for part in range(1 + number % 3)
            ]
            await journal.append_many(records)
            say(*records)

    async with trio.open_nursery() as nursery:
        for task in range(8):
            nursery.start_soon(appender, task)


async def through(journal: Journal, life: str) -> None:
    for number in itertools.count():
        journal.append_nowait([f"{life}:n:{number}:".encode() + b"." * 3000])
        record = f"{life}:t:{number}:".encode() + b"." * (number * 131 % 500)
        journal.write_through([record])
        say(record)
        await trio.lowlevel.checkpoint()


async def live(directory: Path, mode: str, life: str) -> None:
    async with Journal.open(directory / mode, SPECS[mode]) as journal:
        await (durable if mode == "durable" else through)(journal, life)


def main() -> None:
    """Serve lives until standard input ends."""
    directory = Path(sys.argv[1])
    for line in sys.stdin:
        mode, life = line.split()
        child = os.fork()
        if child == 0:
            trio.run(live, directory, mode, life)
            os._exit(0)
        say(f"pid:{child}".encode())
        os.waitpid(child, 0)
        say(b"gone")


if __name__ == "__main__":
    main()
