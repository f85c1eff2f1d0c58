"""Committed events before they reach the region."""

from __future__ import annotations

import json

from appliance.world.entities import entity_json
from appliance.world.overlay import DELETE, NOTE, SET, Overlay


def props(text: bytes) -> object:
    return json.loads(text)["properties"] if text else None


def test_events_of_one_entity_are_merged():
    """ST-03, ST-04: shallow, null is a value."""
    overlay = Overlay()
    overlay.take([(1, "a", {"p": {"x": 1}, "q": 1}, SET, False, 10)], 100)
    overlay.take([(2, "a", {"p": {"y": 2}, "r": None}, SET, True, 10)], 200)
    text = overlay.text("a", b"")
    assert props(text) == {"p": {"y": 2}, "q": 1, "r": None}
    assert json.loads(text)["seq"] == 2
    assert b"00:00.200" in text
    assert len(overlay) == 1


def test_below_lies_the_row():
    overlay = Overlay()
    row = entity_json("a", {"p": 1, "q": 2}, 50, 4)
    overlay.take([(9, "a", {"q": 3}, SET, True, 10)], 100)
    assert props(overlay.text("a", row)) == {"p": 1, "q": 3}
    assert overlay.text("b", row) == row


def test_a_note_moves_only_the_head():
    """EV-09."""
    overlay = Overlay()
    row = entity_json("a", {"p": 1}, 50, 4)
    overlay.take([(9, "a", None, NOTE, True, 10), (10, "b", None, NOTE, False, 10)], 100)
    assert overlay.text("a", row) == row
    assert overlay.text("b", b"") == b""
    assert overlay.front["a"].head == 9


def test_a_deleted_entity_begins_anew():
    """ST-12."""
    overlay = Overlay()
    row = entity_json("a", {"p": 1}, 50, 4)
    overlay.take([(9, "a", None, DELETE, True, 10)], 100)
    assert overlay.text("a", row) == b""
    overlay.take([(10, "a", {"q": 1}, SET, False, 10)], 100)
    assert props(overlay.text("a", row)) == {"q": 1}


def test_front_lies_over_back():
    overlay = Overlay()
    overlay.take([(1, "a", {"p": 1}, SET, False, 10)], 1)
    overlay.front_seq = 1
    assert overlay.swap()
    overlay.take([(2, "a", {"q": 2}, SET, True, 10), (3, "b", {"p": 1}, SET, False, 10)], 2)
    overlay.front_seq = 3
    assert props(overlay.text("a", b"")) == {"p": 1, "q": 2}
    assert sorted(overlay.ids()) == ["a", "a", "b"]
    assert overlay.swap()
    assert overlay.back_seq == 1, "what an earlier cycle left is projected first"
    overlay.settled(["a"])
    assert overlay.swap()
    assert overlay.back_seq == 3
    for one in ("a", "b"):
        overlay.settled([one])
    assert not overlay.swap()
    assert overlay.size_bytes == 0


def test_bytes_are_counted_and_forgotten():
    overlay = Overlay()
    overlay.take([(1, "a", {"p": 1}, SET, False, 1000), (2, "a", {"p": 1}, SET, True, 1000)], 1)
    assert overlay.size_bytes > 2000
    overlay.clear()
    assert (overlay.size_bytes, len(overlay), overlay.find("a")) == (0, 0, None)


def test_the_dictionary_of_an_event_stays_as_it_came():
    """A listener may look at it long after later events of the same entity."""
    overlay = Overlay()
    given: list[dict[str, object]] = [{"p": 1}, {"q": 2}, {"p": 3}]
    for seq, properties in enumerate(given, 1):
        overlay.take([(seq, "a", properties, SET, seq > 1, 10)], 100)
    assert props(overlay.text("a", b"")) == {"p": 3, "q": 2}
    assert given == [{"p": 1}, {"q": 2}, {"p": 3}]


def test_values_that_stay_are_written_as_they_are():
    overlay = Overlay()
    overlay.take([(2, "a", {"q": 1}, SET, True, 10)], 100)
    below = entity_json("a", {"p": {"x": [1.5, "é\n", None]}, "q": 0}, 50, 1)
    assert overlay.text("a", below) == entity_json("a", {"p": {"x": [1.5, "é\n", None]}, "q": 1}, 100, 2)
