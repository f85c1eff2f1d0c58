"""Frames of the feed (WS-20, WS-21)."""

from __future__ import annotations

import json

from appliance.world import Update
from appliance.world.overlay import DELETE, NOTE, SET
from appliance.world.updates import Updates


def test_one_frame_for_each_property_in_byte_order():
    update = Update(7, "scada/pump-07", 1770000000123, {"z": None, "a": 4.2, "Ä": {"x": [1]}})
    assert [frame.property for frame in update.frames] == ["a", "z", "Ä"]
    assert update.frames[0].data == (
        b'{"type":"state_update","entity_id":"scada/pump-07","property":"a","value":4.2,'
        b'"timestamp":"2026-02-02T02:40:00.123Z","seq":7}'
    )
    assert json.loads(update.frames[1].data)["value"] is None


def test_a_deletion_is_one_frame():
    (frame,) = Update(8, 'a"b', 1770000060500, None).frames
    assert frame.property is None
    assert frame.data == (
        b'{"type":"entity_deleted","entity_id":"a\\"b","timestamp":"2026-02-02T02:41:00.500Z","seq":8}'
    )


def test_frames_are_encoded_once():
    update = Update(1, "a", 0, {"p": 1})
    assert update.frames is update.frames
    assert repr(update) == "Update(1, 'a', {'p': 1})"


def test_updates_of_a_commit_are_what_changed_something():
    changes = [
        (1, "a", None, NOTE, True, 9),
        (2, "b", {"p": 1}, SET, False, 9),
        (3, "c", None, DELETE, True, 9),
        (4, "d", None, DELETE, False, 9),
    ]
    updates = Updates(changes, 1770000000123)
    assert updates
    assert updates[-1].seq == 3
    assert [(one.seq, one.entity_id, one.properties) for one in updates] == [
        (2, "b", {"p": 1}),
        (3, "c", None),
    ]
    assert len(updates) == 2
    assert updates[0] is next(iter(updates))
    assert [one.seq for one in updates[:1]] == [2]


def test_a_commit_without_changes_has_no_updates():
    assert not Updates([(1, "a", None, NOTE, True, 9)], 1770000000123)
