"""Plans: who is asked, with what, how long, behind which turn; and what is refused before that."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.services.admin.plan import Kind
from appliance.services.admin.planner import Planner, shown_action
from appliance.settings.hive import AdminTimeouts
from appliance.wire.admin.catalogue import ACTIONS
from appliance.wire.admin.outcome import AdminCall
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound

MOTHER = Planner("motherbee", is_mother=True, timeouts=AdminTimeouts())
WORKER = Planner("edge-07", is_mother=False, timeouts=AdminTimeouts())


def plan(action, target=None, /, **params):
    return MOTHER.plan(AdminCall(action=action, target=target, params=params))


TARGETS = [
    # node_name's hive beats everything, then the body's target, then the path's hive, then this hive
    ({"node_name": "WF.x@edge-07", "target": "edge-08"}, "motherbee", "WF.x@edge-07", "edge-07"),
    ({"node_name": "WF.x", "target": "edge-08"}, "motherbee", "WF.x@edge-08", "edge-08"),
    ({"node_name": "WF.x"}, "edge-09", "WF.x@edge-09", "edge-09"),
    ({"node_name": "WF.x"}, "SY.admin@edge-09", "WF.x@edge-09", "edge-09"),
    ({"node_name": " WF.x "}, None, "WF.x@motherbee", "motherbee"),
]


@pytest.mark.parametrize(("params", "target", "name", "hive"), TARGETS)
def test_the_target_of_a_node_action(params, target, name, hive):
    made = MOTHER.plan(AdminCall(action="run_node", target=target, params=params))
    assert made.payload["node_name"] == name
    assert made.payload["target"] == made.target == hive
    assert made.dst == "SY.orchestrator@motherbee"
    assert made.turn == f"node:{name}"


def test_reads_wait_for_no_turn_and_changes_do():
    assert plan("get_node_status", node_name="AI.a").turn == ""
    assert plan("list_routes", "edge-07").turn == ""
    assert plan("add_route", "edge-07", prefix="AI.", action="DROP").turn == "routes:edge-07"
    assert plan("add_vpn", "edge-07", pattern="AI.", vpn_id=1).turn == "routes:edge-07"
    assert plan("remove_runtime_version", runtime="AI.X", version="1").turn == "runtime:ai.x"
    assert plan("remove_hive", hive_id="edge-07").turn == "hive:edge-07"
    changing = [name for name, entry in ACTIONS.items() if not entry.read_only]
    assert {"update", "sync_hint", "set_storage", "send_node_message"} <= set(changing)


def test_routes_go_to_the_route_service_of_the_target():
    made = plan("add_route", "edge-07", prefix="AI.", action="DROP", priority=None, unknown=1)
    assert made.dst == "SY.config.routes@edge-07"
    assert made.kind is Kind.ROUTE_CHANGE
    assert made.payload == {"prefix": "AI.", "action": "DROP"}
    assert plan("delete_route").payload == {"prefix": ""}


TIMEOUTS = [
    ("add_hive", {"hive_id": "a", "address": "b"}, 180),
    ("update", {"manifest_hash": "a"}, 60),
    ("sync_hint", {}, 45),
    ("inventory", {}, 10),
    ("hive_status", {}, 5),
    ("get_node_status", {"node_name": "AI.a"}, 30),
    ("node_control_config_get", {"node_name": "AI.a"}, 25),
    ("get_storage_metrics", {}, 8),
    ("configure_routes", {}, 5),
]


@pytest.mark.parametrize(("action", "params", "seconds"), TIMEOUTS)
def test_timeouts(action, params, seconds):
    assert plan(action, **params).timeout_s == seconds


UPDATE_ERRORS = [
    ({"category": "soft", "manifest_version": "x", "version": 1}, "category"),
    ({"category": None, "manifest_hash": "a"}, "category"),
    ({"manifest_version": -1, "version": 1}, "manifest_version"),
    ({"manifest_version": True, "manifest_hash": "a"}, "manifest_version"),
    ({"version": 1}, "manifest_version"),
    ({"hash": "a"}, "manifest_hash"),
    ({"manifest_hash": "a", "hash": "a"}, "manifest_hash"),
    ({"manifest_hash": "a", "category": "core", "runtime": "x"}, "category runtime"),
    ({"manifest_hash": "a", "runtime_version": "1"}, "needs runtime"),
]


@pytest.mark.parametrize(("params", "fragment"), UPDATE_ERRORS)
def test_update_is_refused_in_the_prescribed_order(params, fragment):
    with pytest.raises(Invalid, match=fragment) as caught:
        plan("update", **params)
    assert caught.value.code == "INVALID_REQUEST"


def test_update_goes_to_the_targets_orchestrator():
    made = plan("update", "edge-07", manifest_hash=" AB ", category=" Core ")
    assert (made.dst, made.verb) == ("SY.orchestrator@edge-07", "SYSTEM_UPDATE")
    assert made.payload == {"category": "core", "manifest_version": 0, "manifest_hash": "AB"}


@pytest.mark.parametrize(
    "params",
    [{"channel": "x"}, {"folder_id": " "}, {"wait_for_idle": "yes"}, {"timeout_ms": 0}, {"timeout_ms": True}],
)
def test_sync_hint_is_refused(params):
    with pytest.raises(Invalid):
        plan("sync_hint", **params)


def test_sync_hint_has_defaults():
    assert plan("sync_hint", channel="dist").payload == {
        "channel": "dist",
        "folder_id": "fluxbee-dist",
        "wait_for_idle": True,
        "timeout_ms": 30_000,
    }


INVALID = [
    ("run_node", {"node_name": "AI.a", "name": "x"}),
    ("run_node", {"node_name": "AI.a", "version": "1"}),
    ("kill_node", {}),
    ("start_node", {}),
    ("run_node", {"node_name": "@h"}),
    ("run_node", {"node_name": "AI.a@not a hive"}),
    ("list_nodes", {"target": "no hive"}),
    ("list_nodes", {"target": 7}),
    ("add_route", {"prefix": "AI.", "action": "drop"}),
    ("add_route", {"prefix": "AI."}),
    ("add_vpn", {"pattern": "AI.", "vpn_id": -1}),
    ("add_vpn", {"pattern": "AI.", "vpn_id": "1"}),
    ("set_storage", {}),
    ("set_storage", {"path": " "}),
    ("set_node_config", {"node_name": "AI.a", "config": [1]}),
    ("send_node_message", {"node_name": "AI.a", "ttl": 0}),
    ("send_node_message", {"node_name": "AI.a", "msg_type": ""}),
    ("send_node_message", {"node_name": "AI.a", "src_ilk": 1}),
    ("publish_runtime_package", {"source": {"kind": "nothing"}}),
    ("publish_runtime_package", {"source": {"kind": "inline_package"}, "sync_to": [""]}),
    ("get_ilk", {}),
    ("inventory", {"scope": "everything"}),
    ("remove_runtime_version", {"runtime": "a", "version": "1", "test_hold_ms": "soon"}),
    ("no_such_action", {}),
]


@pytest.mark.parametrize(("action", "params"), INVALID)
def test_what_is_invalid(action, params):
    with pytest.raises(Invalid) as caught:
        plan(action, **params)
    assert caught.value.code == "INVALID_REQUEST"


def test_a_hive_record_needs_a_hive_id():
    assert plan("get_hive", "edge-07").payload == {"hive_id": "edge-07"}
    assert plan("get_hive", hive_id="edge-07").payload == {"hive_id": "edge-07"}
    with pytest.raises(Invalid) as caught:
        plan("get_hive", "bad%20id")
    assert caught.value.code == "INVALID_HIVE_ID"


def test_inventory_scopes():
    assert plan("inventory").payload == {"scope": "global"}
    assert plan("inventory", scope="hive", target="edge-07").payload == {
        "scope": "hive",
        "filter_hive": "edge-07",
    }
    made = plan("inventory", filter_hive="edge-07", filter_type="ai").payload
    assert made == {"scope": "hive", "filter_hive": "edge-07", "filter_type": "AI"}


def test_node_control_refuses_another_hive_than_the_path_only():
    call = AdminCall(
        action="node_control_config_get",
        target="motherbee",
        params={"node_name": "AI.a@edge-07", "url_hive": "motherbee"},
    )
    with pytest.raises(Invalid):
        MOTHER.plan(call)
    made = plan("node_control_config_get", "motherbee", node_name="AI.a@edge-07")
    assert (made.dst, made.target) == ("AI.a@edge-07", "edge-07")
    assert "url_hive" not in made.payload


def test_a_worker_answers_for_itself_only():
    for action, params in (
        ("publish_runtime_package", {"source": {"kind": "inline_package"}}),
        ("add_hive", {"hive_id": "x"}),
        ("remove_hive", {"hive_id": "x"}),
        ("remove_runtime_version", {"runtime": "a", "version": "1"}),
        ("opa_apply", {}),
        ("list_nodes", {"target": "motherbee"}),
    ):
        with pytest.raises(Conflict) as caught:
            WORKER.plan(AdminCall(action=action, params=params))
        assert caught.value.code == "NOT_PRIMARY"
        assert caught.value.status == 409
    own = WORKER.plan(AdminCall(action="list_nodes"))
    assert own.dst == "SY.orchestrator@edge-07"


def test_help_knows_the_catalogue():
    assert plan("get_admin_action_help", action="run_node").verb == "run_node"
    with pytest.raises(NotFound) as caught:
        plan("get_admin_action_help", action="nothing")
    assert caught.value.code == "ACTION_NOT_FOUND"


def test_services_of_later_versions_are_named():
    assert plan("timer_now").dst == "SY.timer"
    assert plan("opa_compile").kind is Kind.ABSENT
    assert shown_action("wf_rules_delete") == "delete_workflow"
    assert shown_action("wf_rules_get_workflow") == "get_workflow"
    assert shown_action("opa_check") == "compile"
    assert shown_action("opa_get_policy") == "get_policy"
    assert shown_action("delete_route") == "delete_route"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
KNOWN = (
    "node_name target hive_id runtime version prefix action pattern vpn_id config source path channel ttl"
    " manifest_hash category ilk_id scope tail msg_type payload test_hold_ms replace filter_type"
)
KEYS = st.sampled_from(KNOWN.split())
PARAMS = st.dictionaries(KEYS, VALUES, max_size=5)


@given(st.sampled_from(sorted(ACTIONS)), st.none() | st.text(max_size=8), PARAMS)
def test_whatever_is_asked_ends_in_a_plan_or_an_error_of_the_tree(action, target, params):
    with suppress(FluxbeeError):
        made = MOTHER.plan(AdminCall(action=action, target=target, params=params))
        assert made.timeout_s > 0
