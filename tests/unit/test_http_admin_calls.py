"""From a matched request to a call: what wins over what."""

from __future__ import annotations

import pytest

from appliance.http.admin.calls import call_of
from appliance.http.admin.endpoints import find
from appliance.http.admin.paths import segments
from appliance.wire.errors import Invalid


def call(method, target, body=b""):
    path, _, query = target.partition("?")
    match = find(method, segments(path.encode()))
    assert match is not None
    return call_of(match, query.encode(), body)


def test_path_query_and_body_become_parameters():
    made = call("DELETE", "/hives/m/nodes/AI.a%40m", b'{"force":true}')
    assert (made.action, made.target) == ("kill_node", "m")
    assert made.params == {"node_name": "AI.a@m", "force": True}


def test_a_body_goes_before_the_path_except_for_control():
    assert call("DELETE", "/hives/m/nodes/AI.a", b'{"node_name":"AI.b"}').params["node_name"] == "AI.b"
    made = call("POST", "/hives/m/nodes/AI.a/control/config-get", b'{"node_name":"AI.b","x":1}')
    assert made.params == {"node_name": "AI.a", "x": 1, "url_hive": "m"}


def test_a_configuration_is_the_whole_body():
    made = call("PUT", "/hives/m/nodes/AI.a/config?replace=1&notify=0", b'{"replace":7}')
    assert made.params == {"node_name": "AI.a", "config": {"replace": 7}, "replace": "1", "notify": "0"}


def test_the_hive_of_a_path_is_never_decoded():
    assert call("GET", "/hives/a%20b/nodes").target == "a%20b"
    assert call("GET", "/inventory/a%20b").params == {"filter_hive": "a b", "scope": "hive"}


def test_a_query_may_choose_another_action():
    assert call("GET", "/versions").action == "list_versions"
    made = call("GET", "/versions?hive=edge-07")
    assert (made.action, made.target) == ("get_versions", "edge-07")
    assert call("GET", "/wf-rules").action == "wf_rules_list_workflows"
    assert call("GET", "/hives/m/wf-rules?workflow_name=x").action == "wf_rules_get_workflow"
    assert call("GET", "/deployments?hive=m&limit=5").params == {"limit": "5"}


def test_unknown_query_fields_are_ignored():
    assert call("GET", "/hives/m/nodes?x=1").params == {}


@pytest.mark.parametrize("body", [b"{", b"[1]", b"7", b"null", b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_objects(body):
    with pytest.raises(Invalid):
        call("POST", "/hives/m/nodes", body)


def test_an_empty_body_is_an_object_only_where_it_may_be():
    assert call("POST", "/hives/m/sync-hint", b" \n").params == {}
    for method, path in (("POST", "/routes"), ("PUT", "/hives/m/nodes/AI.a/config"), ("PUT", "/config/vpns")):
        with pytest.raises(Invalid):
            call(method, path)


def test_bodies_of_reads_are_not_looked_at():
    assert call("GET", "/hives/m/nodes", b"{broken").params == {}
