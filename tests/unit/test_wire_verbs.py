from __future__ import annotations

from appliance.wire import verbs

REASONS = {
    "NODE_NOT_FOUND",
    "VPN_BLOCKED",
    "PEER_UNAVAILABLE",
    "GATEWAY_UNAVAILABLE",
    "WAN_UNAVAILABLE",
    "OPA_ERROR",
    "OPA_NO_TARGET",
}
TYPES = {"user", "system", "admin", "command", "command_response", "query", "query_response"}


def words() -> dict[str, str]:
    return {name: getattr(verbs, name) for name in verbs.__all__ if isinstance(getattr(verbs, name), str)}


def test_everything_is_exported() -> None:
    public = {name for name in vars(verbs) if not name.startswith("_")} - {"annotations", "Final"}
    assert public == set(verbs.__all__)


def test_verbs_and_reasons_are_spelled_as_they_are_named() -> None:
    spelled_otherwise = {name for name, word in words().items() if name != word}
    lower = {"USER", "SYSTEM", "ADMIN", "COMMAND", "COMMAND_RESPONSE", "QUERY", "QUERY_RESPONSE", "BROADCAST"}
    assert spelled_otherwise == lower | {"SCOPE_GLOBAL", "SCOPE_VPN", "NODE_CONTROL_TARGET"}
    assert all(words()[name] == name.lower() for name in lower)


def test_the_reference_reasons_and_types_are_all_here() -> None:
    assert set(words().values()) >= REASONS | TYPES
    assert set(words().values()) >= {"HELLO", "ANNOUNCE", "WITHDRAW", "UNREACHABLE", "TTL_EXCEEDED"}


def test_no_word_has_two_names() -> None:
    assert len(set(words().values())) == len(words())


def test_types_that_are_not_recorded() -> None:
    assert {"system", "admin", "query_response"} == verbs.UNRECORDED_TYPES


def test_default_hop_budget_and_answers() -> None:
    assert verbs.DEFAULT_TTL == 16
    assert verbs.response_verb("ROUTER_STATUS") == "ROUTER_STATUS_RESPONSE"
