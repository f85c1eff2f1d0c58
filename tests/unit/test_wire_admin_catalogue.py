"""The action catalogue says what the specification's table says."""

from __future__ import annotations

import shlex

import msgspec
import pytest

from appliance.wire.admin.catalogue import ACTIONS, CATALOGUE, REGISTRY_VERSION

HANDLERS = {
    "query",
    "command",
    "update",
    "sync_hint",
    "inventory",
    "opa_http",
    "opa_query",
    "wf_rules_http",
    "wf_rules_query",
    "timer_rpc",
}

READ_ONLY = """hive_status list_hives list_admin_actions get_admin_action_help list_versions get_versions
list_runtimes get_runtime list_routes list_vpns list_nodes get_storage get_hive get_node_config get_node_state
get_node_status node_control_config_get list_ilks get_ilk list_deployments get_deployments list_drift_alerts
get_drift_alerts inventory opa_check opa_get_policy opa_get_status wf_rules_get_workflow wf_rules_get_status
wf_rules_list_workflows timer_help timer_get timer_list timer_now timer_now_in timer_convert timer_parse
timer_format"""

CONFIRMED = """publish_runtime_package remove_runtime_version remove_hive delete_route delete_vpn kill_node
remove_node_instance set_node_config node_control_config_set set_storage update sync_hint opa_compile_apply
opa_compile opa_apply opa_rollback"""

WITHOUT_TARGET = """hive_status list_hives list_admin_actions get_admin_action_help publish_runtime_package
get_storage add_hive get_hive remove_hive set_storage inventory opa_compile_apply opa_compile opa_apply
opa_rollback opa_check opa_get_policy opa_get_status wf_rules_compile_apply wf_rules_compile wf_rules_apply
wf_rules_rollback wf_rules_delete wf_rules_get_workflow wf_rules_get_status wf_rules_list_workflows"""


def test_it_has_66_entries_in_registry_order():
    names = [entry.action for entry in CATALOGUE]
    assert REGISTRY_VERSION == "6"
    assert len(names) == len(set(names)) == 66
    assert names[:5] == [
        "hive_status",
        "list_hives",
        "list_admin_actions",
        "get_admin_action_help",
        "publish_runtime_package",
    ]
    assert names[10:12] == ["list_routes", "list_vpns"]
    assert names[40:43] == ["update", "sync_hint", "inventory"]
    assert names[-1] == "timer_format"
    assert "get_storage_metrics" not in ACTIONS


def test_flags_are_those_of_the_table():
    assert {name for name, entry in ACTIONS.items() if entry.read_only} == set(READ_ONLY.split())
    assert {name for name, entry in ACTIONS.items() if entry.confirmation_required} == set(CONFIRMED.split())
    assert {name for name, entry in ACTIONS.items() if not entry.requires_target} == set(
        WITHOUT_TARGET.split()
    )
    legacy = {name for name, entry in ACTIONS.items() if entry.allow_legacy_hive_id}
    assert legacy == {"add_hive", "get_hive", "remove_hive"}


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.action)
def test_an_entry_is_consistent(entry):
    contract = entry.request_contract
    assert entry.handler in HANDLERS
    has_inner = entry.handler in {"query", "command", "opa_query", "wf_rules_query", "timer_rpc"}
    assert (entry.canonical_action is not None) == has_inner
    assert contract.path_patterns == entry.path_patterns
    assert contract.method == entry.path_patterns[0].split()[0]
    for pattern in entry.path_patterns:
        for part in pattern.split("/"):
            if part.startswith("{"):
                assert part[1:-1] in [one.name for one in contract.path_params]
    body = contract.body
    if body.kind == "none":
        assert not body.required
        assert not body.required_fields
        assert not body.optional_fields
    else:
        assert body.kind == "json_object"


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.action)
def test_its_examples_are_commands(entry):
    contract = entry.request_contract
    for command, base in ((contract.example_scmd, ""), (contract.example_curl, "http://127.0.0.1:8080")):
        words = shlex.split(command)
        assert words[:3] == ["curl", "-X", contract.method]
        assert words[3].startswith(f"{base}/")
        assert "{" not in words[3]
        if "-d" in words:
            assert msgspec.json.decode(words[words.index("-d") + 1]) == contract.example_payload


def test_shape_of_the_worked_example():
    entry = msgspec.to_builtins(ACTIONS["kill_node"])
    assert entry["request_contract"]["example_scmd"] == (
        "curl -X DELETE /hives/motherbee/nodes/AI.greeter@motherbee"
        ' -d \'{"force":false,"purge_instance":true}\''
    )
    assert [field["name"] for field in entry["request_contract"]["body"]["optional_fields"]] == [
        "force",
        "purge_instance",
    ]
    assert entry["request_contract"]["body"]["required"] is False
    assert ACTIONS["timer_parse"].canonical_action == "TIMER_PARSE"
    assert ACTIONS["opa_get_status"].canonical_action == "get_status"
    assert ACTIONS["start_node"].request_contract.body.required
