"""Walking an entity's past."""

from __future__ import annotations

import json

import pytest
import trio

from appliance.store.journal import Journal
from appliance.store.journal_types import JournalSpec
from appliance.system.disk import RealDisk
from appliance.wire.errors import Busy
from appliance.world import history as module
from appliance.world.history import History
from appliance.world.records import EVENT, pack

SPEC = JournalSpec(name="h", kind="state", segment_bytes=4096)


def record(previous: int, number: int, at_ms: int = 1000) -> bytes:
    payload = {"entity_id": "a", "properties": {"n": number}}
    text = json.dumps({"eventId": str(number), "stream": "s", "source": "x", "payload": payload})
    return pack(EVENT, at_ms, previous, text.encode())


@pytest.fixture
def walk(tmp_path):
    """Store records in groups, then ask."""

    def run(groups, ask):
        async def main():
            async with Journal.open(tmp_path, SPEC) as journal:
                for group in groups:
                    await journal.append_many(group)
                history = History(RealDisk(), tmp_path)
                for _ in range(2):
                    ask(history, journal.snapshot())

        trio.run(main)

    return run


def numbers(page):
    return [json.loads(text)["payload"]["properties"]["n"] for text in page.events]


def everything(history, snapshot, head, limit=500, **window):
    asked = {"since_ms": None, "until_ms": None, "before_seq": None, **window}
    return history.events(snapshot, head, limit=limit, **asked)


def test_a_chain_across_segments(walk):
    groups = [[record(2 * n - 1 if n else 0, n), b"x" * 1000] for n in range(30)]

    def ask(history, snapshot):
        assert len(snapshot.segments) > 3
        page = everything(history, snapshot, 59)
        assert numbers(page) == list(range(29, -1, -1))
        assert page.complete
        assert history.record(snapshot, 60) == b"x" * 1000
        assert history.record(snapshot, 61) is None
        page = everything(history, snapshot, 59, limit=3)
        assert (numbers(page), page.next_before_seq) == ([29, 28, 27], 55)
        assert numbers(everything(history, snapshot, 59, before_seq=5)) == [1, 0]

    walk(groups, ask)


def test_a_chain_that_leads_nowhere_is_incomplete(walk):
    def ask(history, snapshot):
        assert not everything(history, snapshot, 9).complete
        page = everything(history, snapshot, 2)
        assert (numbers(page), page.complete) == ([2], False)

    walk([[record(0, 1)], [record(7, 2)]], ask)


def test_an_entity_without_events(walk):
    def ask(history, snapshot):
        assert everything(history, snapshot, 0) == module.HistoryPage(
            events=[], next_before_seq=None, complete=True
        )

    walk([[record(0, 1)]], ask)


def test_one_wrong_stamp_does_not_hide_what_is_behind_it(walk):
    """A clock that jumped back once; a long row of old events ends the walk."""
    stamps = [5000, 10, 5001] + [20] * (module.OLDER_IN_A_ROW + 5)
    groups = [[record(n, n, at_ms)] for n, at_ms in enumerate(reversed(stamps))]

    def ask(history, snapshot):
        page = everything(history, snapshot, len(stamps), since_ms=1000)
        assert len(page.events) == 2
        assert page.complete

    walk(groups, ask)


def test_a_walk_is_bounded(walk, monkeypatch):
    monkeypatch.setattr(module, "MAX_STEPS", 5)

    def ask(history, snapshot):
        with pytest.raises(Busy):
            everything(history, snapshot, 10)

    walk([[record(n, n) for n in range(10)]], ask)


def test_damaged_groups_are_holes(walk, tmp_path):
    def ask(history, snapshot):
        segment = next(tmp_path.glob("*.seg"))
        data = bytearray(segment.read_bytes())
        at = data.index(b'"2"')
        data[at] ^= 1
        segment.write_bytes(data)
        fresh = History(RealDisk(), tmp_path)
        assert fresh.record(snapshot, 2) is None
        assert fresh.record(snapshot, 3) == record(2, 3)
        data[at] ^= 1
        segment.write_bytes(data)

    walk([[record(0, 1)], [record(1, 2)], [record(2, 3)]], ask)
