from __future__ import annotations

import pytest

from appliance.wire.actions import (
    ActionClass,
    ActionOutcome,
    ActionResult,
    action_class_requires_result,
    classify_admin_action,
    classify_routed_message,
    classify_system_message,
    derive_action_outcome,
)


@pytest.mark.parametrize("kind", ["user", "command", "command_response", "query", "anything", ""])
def test_routed_messages_are_sent_messages(kind: str) -> None:
    assert classify_routed_message(kind) is ActionClass.SEND_MESSAGE


@pytest.mark.parametrize("kind", ["system", "admin", "query_response"])
def test_control_messages_have_no_class_of_their_own(kind: str) -> None:
    assert classify_routed_message(kind) is None


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("list_hives", "read"),
        ("node_control_config_get", "read"),
        ("set_node_config", "write"),
        ("node_control_config_set", "write"),
        ("add_route", "system_config"),
        ("remove_runtime_version", "system_config"),
        ("update", "system_config"),
        ("add_hive", "topology_change"),
        ("run_node", "node_lifecycle"),
        ("remove_node_instance", "node_lifecycle"),
        ("list_ilks", "identity_change"),
        ("deprecate_vocabulary", "identity_change"),
        ("send_node_message", "send_message"),
        ("start_node", None),
        ("restart_node", None),
        ("LIST_HIVES", None),
    ],
)
def test_admin_actions(action: str, expected: str | None) -> None:
    assert classify_admin_action(action) == expected


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        ("CONFIG_GET", "read"),
        ("ILK_GET", "read"),
        ("PING", "read"),
        ("CONFIG_SET", "write"),
        ("NODE_CONFIG_SET", "write"),
        ("SYSTEM_SYNC_HINT", "system_config"),
        ("OPA_ROLLBACK", "system_config"),
        ("ADD_HIVE_FINALIZE", "topology_change"),
        ("SPAWN_NODE", "node_lifecycle"),
        ("START_NODE", None),
        ("ILK_REGISTER", None),
        ("config_get", None),
    ],
)
def test_system_verbs(verb: str, expected: str | None) -> None:
    assert classify_system_message(verb) == expected


@pytest.mark.parametrize("action_class", list(ActionClass))
def test_only_acts_that_change_something_need_a_result(action_class: ActionClass) -> None:
    expected = action_class not in (ActionClass.SEND_MESSAGE, ActionClass.READ)
    assert action_class_requires_result(action_class) is expected


def test_no_class_needs_no_result() -> None:
    assert action_class_requires_result(None) is False


APPLIED = ActionOutcome(ActionResult.APPLIED)
BLOCKED = ActionOutcome(ActionResult.BLOCKED, "node")
FAILED = ActionOutcome(ActionResult.FAILED)


@pytest.mark.parametrize(
    ("action_class", "payload", "expected"),
    [
        (ActionClass.WRITE, {"status": "ok"}, APPLIED),
        (ActionClass.WRITE, {"status": "OK"}, APPLIED),
        (ActionClass.WRITE, {"status": "blocked"}, BLOCKED),
        (ActionClass.WRITE, {"status": "error", "error_code": "FORBIDDEN"}, BLOCKED),
        (ActionClass.WRITE, {"error_code": "FORBIDDEN"}, BLOCKED),
        (ActionClass.WRITE, {"status": "error", "error_code": "INVALID"}, FAILED),
        (ActionClass.NODE_LIFECYCLE, {"status": "sync_pending"}, FAILED),
        (ActionClass.WRITE, {}, None),
        (ActionClass.WRITE, {"status": 3}, None),
        (ActionClass.READ, {"status": "ok"}, None),
        (ActionClass.SEND_MESSAGE, {"status": "error"}, None),
        (None, {"status": "ok"}, None),
    ],
)
def test_outcome_of_a_reply(
    action_class: ActionClass | None, payload: dict[str, object], expected: ActionOutcome | None
) -> None:
    assert derive_action_outcome(action_class, payload) == expected
