"""From what lies on the disk to a world that can be read."""

from __future__ import annotations

import pytest
import trio

from appliance.store.journal import Journal
from appliance.store.layouts import WORLD_REGION
from appliance.store.region import Environment
from appliance.store.region_admit import WORLD
from appliance.wire.errors import Damaged
from appliance.world import INTERNAL, WorldOptions
from appliance.world.keeping import JOURNAL
from appliance.world.recovery import recover
from appliance.world.state import WorldState
from appliance.world.view import REGION, WorldView
from tests.world_kit import batch, engine_in, event


@pytest.fixture
def filled(tmp_path):
    async def main():
        async with engine_in(tmp_path) as engine:
            await engine.publish_batch(batch(*[event(str(n), p=n) for n in range(20)]), INTERNAL)
            await engine.compact()
            await engine.publish_batch(batch(*[event(str(n), q=n) for n in range(10, 30)]), INTERNAL)

    trio.run(main)
    return tmp_path


def recovered(home, **options):
    """What recovery finds, the state and the region's position."""
    journal = Journal.open(home / "journal", JOURNAL)
    state = WorldState(WorldOptions(**options))
    with Environment(WORLD, home / "regions", (WORLD_REGION,)) as env:
        found = recover(journal, WorldView(env, 1 << 20), state)
        applied = env.applied_seq(REGION)
    journal.close()
    return found, state, applied


def test_a_trusted_region_needs_nothing(filled):
    found, state, applied = recovered(filled)
    assert (found.rebuilt, found.events, applied) == (False, 0, 40)
    assert state.entities == 30
    assert state.overlay.front_seq == 40


@pytest.mark.parametrize("overlay_bytes", [1 << 10, 64 << 20])
def test_image_and_tail_make_it_anew(filled, overlay_bytes):
    for path in (filled / "regions").iterdir():
        path.unlink()
    found, state, applied = recovered(filled, overlay_bytes=overlay_bytes)
    assert (found.rebuilt, found.events, found.gaps, applied) == (True, 20, 0, 40)
    assert state.entities == 30
    assert recovered(filled)[0].rebuilt is False


def test_a_region_ahead_of_its_journal_is_not_believed(filled):
    with Environment(WORLD, filled / "regions", (WORLD_REGION,)) as env:
        WorldView(env, 1).mark_applied(1000)
    found, state, applied = recovered(filled)
    assert (found.rebuilt, applied, state.entities) == (True, 40, 30)


@pytest.mark.parametrize(("upto", "rebuilt"), [(20, True), (21, False)])
def test_a_restore_that_was_cut_off(filled, upto, rebuilt):
    """The rows count unless the image that was to replace them came to be."""
    with Environment(WORLD, filled / "regions", (WORLD_REGION,)) as env:
        WorldView(env, 1).note_restoring(upto)
    assert recovered(filled)[0].rebuilt is rebuilt


def test_an_image_of_something_else_is_not_loaded(tmp_path):
    async def main():
        async with Journal.open(tmp_path / "journal", JOURNAL) as journal:
            await journal.append(b"x")
            await journal.write_base(1, [b"not a world"])

    trio.run(main)
    with pytest.raises(Damaged, match="not one of a world"):
        recovered(tmp_path)


def test_a_tail_needs_no_rows_to_be_understood(filled):
    """Notes and deletions of what the image has, has not, and of what the tail itself made."""

    async def main():
        async with engine_in(filled) as engine:
            gone = {"__deleted__": True}
            await engine.publish_batch(batch(event("0"), event("new"), event("1", **gone)), INTERNAL)
            await engine.publish_batch(
                batch(event("made", a=1), event("made"), event("none", **gone)), INTERNAL
            )
            await engine.publish_batch(batch(event("2", **gone), event("2"), event("2", b=2)), INTERNAL)
            return [engine.entity(one) for one in ("0", "1", "2", "made", "new", "none")]

    before = trio.run(main)
    for path in (filled / "regions").iterdir():
        path.unlink()
    found, state, applied = recovered(filled)
    assert (found.rebuilt, applied, state.entities, len(state.overlay)) == (True, 49, 30, 0)

    async def again():
        async with engine_in(filled) as engine:
            return [engine.entity(one) for one in ("0", "1", "2", "made", "new", "none")]

    assert trio.run(again) == before
