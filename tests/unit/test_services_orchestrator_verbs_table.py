import pytest

from appliance.services.orchestrator.verbs_table import ACTION_OF, is_guarded, resource_of


@pytest.mark.parametrize(
    ("action", "request_", "resource"),
    [
        ("run_node", {"node_name": "AI.x"}, "node:AI.x@h"),
        ("kill_node", {"node_name": "AI.x@other"}, "node:AI.x@other"),
        ("start_node", {"node_name": "AI.x", "target": "other"}, "node:AI.x@other"),
        ("kill_node", {"unit": "u"}, "unit:u"),
        ("kill_node", {}, None),
        ("set_node_config", {"node_name": 7}, None),
        ("remove_runtime_version", {"runtime": "AI.Greeter"}, "runtime:ai.greeter"),
        ("remove_runtime_version", {"runtime": "../x"}, None),
        ("add_hive", {"hive_id": "e"}, "hive:e"),
        ("update", {"category": "core"}, "update:core"),
        ("get_node_status", {"node_name": "AI.x"}, None),
        ("list_nodes", {}, None),
    ],
)
def test_a_change_waits_for_what_it_changes(action, request_, resource):
    assert resource_of(action, request_, "h") == resource


def test_what_may_hold_secrets_or_changes_is_guarded():
    open_to_all = {action for action in ACTION_OF.values() if not is_guarded(action, {})}
    assert open_to_all == {"list_nodes", "list_runtimes", "get_runtime", "sync_hint"}
    assert is_guarded("sync_hint", {"channel": "dist"})
    assert is_guarded("start_node", {})
    assert is_guarded("restart_node", {})
    assert not is_guarded("hive_status", {})
