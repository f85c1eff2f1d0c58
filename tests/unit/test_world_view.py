"""The region of the world."""

from __future__ import annotations

import json

import pytest

from appliance.store.layouts import WORLD_REGION
from appliance.store.region import Environment
from appliance.store.region_admit import WORLD
from appliance.wire.errors import Damaged
from appliance.world.entities import entity_json
from appliance.world.overlay import DELETE, NOTE, SET, Overlay
from appliance.world.view import REGION, WorldView


@pytest.fixture
def env(tmp_path):
    with Environment(WORLD, tmp_path, (WORLD_REGION,)) as env:
        yield env


@pytest.fixture
def view(env):
    view = WorldView(env, 200)
    view.reset("j")
    view.finish(0)
    return view


def put(view, *changes, upto=None):
    overlay = Overlay()
    overlay.take(list(changes), 1000)
    overlay.front_seq = upto or changes[-1][0]
    overlay.swap()
    return overlay, list(view.project(overlay, slice_puts=2))


def text(view, one):
    with view.rows() as rows:
        return rows.text(one)


def test_rows_hold_the_newest_event_and_the_text(view, env):
    overlay, slices = put(
        view,
        (1, "a", {"p": 1}, SET, False, 9),
        (2, "b", {"p": 1}, SET, False, 9),
        (3, "c", None, NOTE, False, 9),
    )
    assert slices == [2, 1]
    assert len(overlay) == 0
    assert json.loads(text(view, "a"))["properties"] == {"p": 1}
    with view.rows() as rows:
        assert [rows.value(one) for one in "abcd"] == [1 << 1 | 1, 2 << 1 | 1, 3 << 1, 0]
        assert rows.text("c") == b""
    assert view.meta.entities == 2
    assert env.applied_seq(REGION) == 3


def test_an_event_is_not_applied_twice(view):
    """DF-07: the number in the row guards it."""
    put(view, (5, "a", {"p": 5}, SET, False, 9))
    put(view, (3, "a", {"p": 3}, SET, False, 9), upto=5)
    assert json.loads(text(view, "a"))["properties"] == {"p": 5}
    assert view.meta.entities == 1


def test_deleting_counts_and_leaves_the_head(view):
    put(view, (1, "a", {"p": 1}, SET, False, 9))
    put(view, (2, "a", None, DELETE, True, 9))
    assert view.meta.entities == 0
    with view.rows() as rows:
        assert rows.value("a") == 2 << 1
    assert view.drop_ghosts([b"a", b"b"], 1) == 0
    assert view.drop_ghosts([b"a"], 2) == 1


def test_large_entities_are_named(view):
    put(view, (1, "a", {"p": "x" * 300}, SET, False, 9))
    assert view.heavy == {"a"}
    put(view, (2, "a", {"p": "x"}, SET, True, 9))
    assert view.heavy == set()


def test_a_row_that_does_not_decode_is_told(view, env):
    with env.change(REGION) as txn:
        txn.raw.put(b"a", bytes(8) + b"rubbish", db=txn.dbs["world_entity"])
    with pytest.raises(Damaged):
        put(view, (1, "a", {"p": 1}, SET, True, 9))


def test_a_position_without_rows(view, env):
    view.mark_applied(7)
    view.mark_applied(3)
    assert env.applied_seq(REGION) == 7


def test_controls_and_meta_come_back(view, env):
    view.save_changed({"": b'{"c":1}', "/a": b'{"n":"a"}', "/b": b'{"n":"b"}'})
    view.save_changed({"/a": None})
    assert view.load_control() == (b'{"c":1}', [b'{"n":"b"}'])
    view.note_restoring(5)
    again = WorldView(env, 200)
    assert (again.meta.journal_id, again.meta.restoring) == ("j", 5)


def test_loading_rows(view, env):
    view.reset("k")
    view.load([(b"a", bytes(8) + entity_json("a", {}, 0, 1)), (b"b", bytes(8))])
    view.load([(b"c", bytes(8) + entity_json("c", {}, 0, 1))])
    view.finish(9)
    assert (view.meta.entities, view.meta.journal_id, env.applied_seq(REGION)) == (2, "k", 9)
