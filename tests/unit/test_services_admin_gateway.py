"""ADMIN_COMMAND: refusals and their precedence, who may change things, what an answer looks like."""

from __future__ import annotations

import msgspec
import pytest

from appliance.services.admin.gateway import Gateway, answer_command
from appliance.wire import verbs
from appliance.wire.admin.outcome import AdminCall, AdminOutcome, failure
from appliance.wire.envelope import Meta, build_message

GATEWAY = Gateway("motherbee", ["WF.orch.diag", "IO.*"])


def command(payload, sender="SY.orchestrator@motherbee"):
    message = build_message(
        src="u1",
        dst="SY.admin@motherbee",
        payload=payload,
        meta=Meta(type=verbs.ADMIN, msg=verbs.ADMIN_COMMAND),
        trace_id="t1",
    )
    message.routing.src_l2_name = sender
    return message


REFUSED = [
    ({}, {"message": "missing payload.action"}),
    ({"action": "  "}, {"message": "missing payload.action"}),
    ({"action": 7}, {"message": "missing payload.action"}),
    ([1], "the payload must be a JSON object"),
    ({"action": "fly"}, "unknown action 'fly'"),
    ({"action": "executor_execute_plan"}, "unknown action 'executor_execute_plan'"),
    ({"action": "list_routers"}, "legacy router action is not supported: list_routers"),
    ({"action": "get_storage_metrics"}, "unknown action 'get_storage_metrics'"),
    ({"action": "run_node"}, "missing target (payload.target required for this action)"),
    ({"action": "list_nodes", "target": " "}, "missing target (payload.target required for this action)"),
    (
        {"action": "run_node", "params": {"hive_id": "x"}},
        "legacy field 'hive_id' is not supported for this action; use payload.target",
    ),
    (
        {"action": "update", "target": "x", "params": {"hive_id": "x"}},
        "legacy field 'hive_id' is not supported for this action; use payload.target",
    ),
    ({"action": "hive_status", "params": [1]}, "params must be a JSON object or null"),
    ({"action": "hive_status", "target": 7}, "target must be a string"),
]


@pytest.mark.parametrize(("payload", "detail"), REFUSED)
def test_refusals(payload, detail):
    outcome = GATEWAY.judge(command(payload))
    assert isinstance(outcome, AdminOutcome)
    assert (outcome.status, outcome.error_code, outcome.error_detail) == ("error", "INVALID_REQUEST", detail)


def test_a_good_command_is_a_call():
    call = GATEWAY.judge(command({"action": "get_hive", "params": {"hive_id": "edge-07"}, "request_id": "r"}))
    assert call == AdminCall(action="get_hive", target=None, params={"hive_id": "edge-07"})
    bare = GATEWAY.judge(command({"action": "hive_status", "params": None}))
    assert bare == AdminCall(action="hive_status")


def test_reading_is_open_and_changing_is_not():
    read, change = {"action": "list_hives"}, {"action": "set_storage", "params": {"path": "/x"}}
    for sender in ("AI.x@motherbee", None):
        assert isinstance(GATEWAY.judge(command(read, sender)), AdminCall)
        refused = GATEWAY.judge(command(change, sender))
        assert isinstance(refused, AdminOutcome)
        assert refused.error_code == "FORBIDDEN"
    for sender in ("SY.wf-rules@edge-07", "WF.orch.diag@motherbee", "IO.gate@motherbee"):
        assert isinstance(GATEWAY.judge(command(change, sender)), AdminCall)
    assert isinstance(GATEWAY.judge(command(change, "WF.orch.diag@edge-07")), AdminOutcome)


@pytest.mark.parametrize(
    "action", ["get_node_config", "get_node_state", "node_control_config_get", "list_ilks", "get_ilk"]
)
def test_what_may_hold_secrets_is_not_read_through_us(action):
    payload = {"action": action, "target": "m", "params": {"node_name": "AI.x", "ilk_id": "ilk:x"}}
    refused = GATEWAY.judge(command(payload, "AI.x@motherbee"))
    assert isinstance(refused, AdminOutcome)
    assert refused.error_code == "FORBIDDEN"
    assert isinstance(GATEWAY.judge(command(payload, "IO.gate@motherbee")), AdminCall)


def test_an_answer_echoes_trace_and_request_id_and_stamps_the_result():
    message = command({"action": "run_node", "target": "m", "request_id": "req-1"})
    done = AdminOutcome(http_status=200, status="ok", action="run_node", payload=msgspec.Raw(b'{"a":1}'))
    answer = answer_command(message, done, src="me")
    assert (answer.routing.dst, answer.routing.trace_id) == ("u1", "t1")
    assert (answer.meta.type, answer.meta.msg) == ("admin", "ADMIN_COMMAND_RESPONSE")
    assert (answer.meta.action_class, answer.meta.action_result) == ("node_lifecycle", "applied")
    assert answer.json() == {
        "status": "ok",
        "action": "run_node",
        "payload": {"a": 1},
        "error_code": None,
        "error_detail": None,
        "request_id": "req-1",
    }


def test_an_answer_without_request_id_has_none():
    message = command({"action": "run_node", "target": "m"})
    body = answer_command(message, failure("run_node", "FORBIDDEN", "no"), src="me")
    assert "request_id" not in body.json()
    assert (body.meta.action_result, body.meta.result_origin) == ("blocked", "node")
