"""``security.local: open``: the reference's behaviour, on request (``design.md §5`` *Who is who*)."""

from __future__ import annotations

import pytest

from tests.router_kit import Rig


@pytest.fixture
def rig():
    return Rig(open_security=True)


def test_a_process_may_speak_as_another_local_node_whose_name_is_stamped(rig):
    one, other, target = rig.connect("AI.one"), rig.connect("AI.other"), rig.connect("AI.target")
    one.send("AI.target@north", src=other.uuid)
    assert target.read_one()["routing"]["src_l2_name"] == "AI.other@north"


def test_errors_go_to_the_node_that_was_claimed(rig):
    one, other = rig.connect("AI.one"), rig.connect("AI.other")
    one.send("AI.nobody@north", src=other.uuid)
    assert one.read() == []
    assert other.read_one()["payload"]["reason"] == "NODE_NOT_FOUND"


def test_an_unknown_source_is_still_rejected(rig):
    one, target = rig.connect("AI.one"), rig.connect("AI.target")
    one.send("AI.target@north", src="11111111-0000-4000-8000-000000000000")
    assert target.read() == []
    assert rig.counts["foreign_src"] == 1


def test_anybody_may_take_a_system_name(rig):
    assert rig.connect("SY.admin").open
