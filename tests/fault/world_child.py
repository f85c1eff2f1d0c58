"""A process that is there to be killed: keeps a world and says on standard output what was acknowledged.

``python -m tests.fault.world_child DIRECTORY``: for every line ``LIFE`` on standard input, fork a child (see
``journal_child``), print its process id, and let it publish batches from four tasks, delete, settle and write
base images until it is killed. An acknowledged batch is printed as one JSON line: the ids of its events.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from pathlib import Path

import trio

from appliance.world import INTERNAL, WorldEngine
from tests.world_kit import batch, engine_in, event

__all__ = ["ENTITIES", "main"]

ENTITIES = 40


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def some_events(rng: random.Random, name: str) -> list[dict[str, object]]:
    events = []
    for part in range(rng.choice([1, 2, 5, 30])):
        one = f"plant/{rng.randrange(ENTITIES)}"
        if rng.random() < 0.1:
            made = event(one, __deleted__=True)
        else:
            made = event(one, **{rng.choice("abcde"): f"{name}:{part}", "n": rng.randrange(1000)})
        made["eventId"] = f"{name}:{part}"
        events.append(made)
    return events


async def publish(engine: WorldEngine, name: str, rng: random.Random) -> None:
    for number in itertools.count():
        events = some_events(rng, f"{name}:{number}")
        report = await engine.publish_batch(batch(*events), INTERNAL)
        assert report.failed == 0
        say(json.dumps([made["eventId"] for made in events]))
        if rng.random() < 0.2:  # the same request again: answered, not stored
            again = await engine.publish_batch(batch(*events), INTERNAL)
            assert again.results == report.results


async def disturb(engine: WorldEngine, rng: random.Random) -> None:
    while True:
        await trio.sleep(rng.random() * 0.01)
        if rng.random() < 0.3:
            await engine.compact()
        else:
            await engine.settle()


async def live(directory: Path, life: str) -> None:
    rng = random.Random(life)
    async with engine_in(directory) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(disturb, engine, rng)
        for task in range(4):
            nursery.start_soon(publish, engine, f"{life}:{task}", random.Random(f"{life}:{task}"))


def main() -> None:
    """Serve lives until standard input ends."""
    directory = Path(sys.argv[1])
    # The last words of a child that ends by itself; what the many that are killed log is of no interest.
    words = os.open(directory / "last-words", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(words, 2)
    for line in sys.stdin:
        os.ftruncate(2, 0)
        child = os.fork()
        if child == 0:
            trio.run(live, directory, line.strip())
            os._exit(0)
        say(f"pid:{child}")
        os.waitpid(child, 0)
        say("gone")


if __name__ == "__main__":
    main()
