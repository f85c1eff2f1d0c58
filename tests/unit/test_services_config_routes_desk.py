"""What SY.config.routes answers to every message of §4.2, §4.3 and node-protocol §5.2–5.3, right or wrong."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.services.config_routes.book import MAX_VERSION, RouteBook, RouteLimits, add_route, add_vpn
from appliance.services.config_routes.desk import RoutesDesk
from appliance.wire.envelope import Meta, build_message, encode_message
from appliance.wire.errors import Unavailable
from appliance.wire.frames import MAX_FRAME_BYTES
from appliance.wire.routes import RouteAction, RouteEntry, VpnEntry

HIVE = "north"
NAME = f"SY.config.routes@{HIVE}"
ME = "00000000-0000-4000-8000-0000000000aa"
ASKER = "00000000-0000-4000-8000-0000000000bb"
NOW = 1_760_000_000_000
LIMITS = RouteLimits()
ROUTE = {"prefix": "AI.a", "action": "DROP"}
RULE = {"pattern": "AI.a", "vpn_id": 7}
BOOK = RouteBook(
    version=5,
    routes=(RouteEntry(prefix="AI.x", action=RouteAction.DROP),),
    vpns=(VpnEntry(pattern="AI.y", vpn_id=3),),
)


class Answer(NamedTuple):
    """One outcome, opened."""

    message: object
    payload: dict
    book: RouteBook | None


def desk(*admins):
    return RoutesDesk(HIVE, NAME, LIMITS, admins)


def ask(payload, *, book=BOOK, sender=f"SY.admin@{HIVE}", admins=(), **meta):
    message = build_message(src=ASKER, dst=NAME, payload=payload, meta=Meta(**meta), trace_id="trace", ttl=9)
    message.routing.src_l2_name = sender
    outcome = desk(*admins).handle(message, book, src=ME, now_ms=NOW)
    if outcome.answer is None:
        return Answer(None, {}, outcome.book)
    routing = outcome.answer.routing
    assert (routing.src, routing.dst, routing.trace_id) == (ME, ASKER, "trace")
    return Answer(outcome.answer, outcome.answer.json(), outcome.book)


def admin(action, payload, **more):
    answer = ask(payload, type="admin", action=action, **more)
    assert answer.message.meta.type == "admin"
    assert answer.message.meta.action == answer.payload["action"] == (action or "")
    assert answer.message.routing.ttl == 16
    if answer.payload["status"] == "error":
        assert answer.payload["payload"] is None
        assert answer.payload["error_detail"]
        assert answer.book is None
    else:
        assert set(answer.payload) == {"status", "action", "payload"}
    return answer


def changed(subsystem, version, config, **more):
    payload = {
        "subsystem": subsystem,
        "action": None,
        "auto_apply": None,
        "version": version,
        "config": config,
    }
    return ask(payload, type="system", msg="CONFIG_CHANGED", scope="global", **more)


def config_set(config, *, version=0, **more):
    payload = {
        "node_name": NAME,
        "schema_version": 1,
        "config_version": version,
        "apply_mode": "replace",
        "config": config,
        **more.pop("payload", {}),
    }
    return config_message("CONFIG_SET", payload, **more)


def config_message(verb, payload, **more):
    answer = ask(payload, type="system", msg=verb, action=verb, target="node_config_control", **more)
    meta = answer.message.meta
    assert (meta.type, meta.msg, meta.action) == ("system", "CONFIG_RESPONSE", "CONFIG_RESPONSE")
    assert meta.target == "node_config_control"
    assert answer.payload["node_name"] == NAME
    return answer


# --- admin actions (§4.2) -----------------------------------------------------------------------------


def test_lists_are_shown_with_the_version_and_change_nothing():
    answer = admin("list_routes", {})
    assert answer.payload["payload"] == {
        "config_version": 5,
        "routes": [
            {
                "prefix": "AI.x",
                "action": "DROP",
                "next_hop_hive": None,
                "metric": None,
                "priority": None,
            }
        ],
    }
    assert answer.book is None
    answer = admin("list_vpns", None)
    assert answer.payload["payload"] == {
        "config_version": 5,
        "vpns": [{"pattern": "AI.y", "vpn_id": 3, "priority": None}],
    }


def test_adding_answers_with_the_entry_and_the_next_version():
    answer = admin("add_route", ROUTE)
    assert answer.payload["payload"]["config_version"] == 6
    assert answer.payload["payload"]["route"]["prefix"] == "AI.a"
    assert answer.book.version == 6
    assert [route.prefix for route in answer.book.routes] == ["AI.x", "AI.a"]
    answer = admin("add_vpn", RULE)
    assert answer.payload["payload"]["config_version"] == 6
    assert answer.payload["payload"]["vpn"]["vpn_id"] == 7
    assert [rule.pattern for rule in answer.book.vpns] == ["AI.y", "AI.a"]


def test_deleting_answers_with_the_version_alone():
    answer = admin("delete_route", {"prefix": "AI.x"})
    assert answer.payload["payload"] == {"config_version": 6}
    assert answer.book.routes == ()
    answer = admin("delete_vpn", {"pattern": "AI.y"})
    assert answer.payload["payload"] == {"config_version": 6}
    assert answer.book.vpns == ()


@pytest.mark.parametrize(
    ("action", "payload", "code"),
    [
        ("add_route", {**ROUTE, "prefix": "AI.x"}, "DUPLICATE_PREFIX"),
        ("add_vpn", {**RULE, "pattern": "AI.y"}, "DUPLICATE_PATTERN"),
        ("delete_route", {"prefix": "AI.y"}, "NOT_FOUND"),
        ("delete_vpn", {"pattern": "AI.x"}, "NOT_FOUND"),
        ("delete_route", {}, "NOT_FOUND"),
        ("add_route", {**ROUTE, "match_kind": "prefix"}, "INVALID_REQUEST"),
        ("add_route", {**ROUTE, "action": "ALLOW"}, "INVALID_REQUEST"),
        ("add_route", {}, "INVALID_REQUEST"),
        ("add_vpn", {"pattern": "AI.z"}, "INVALID_REQUEST"),
        ("add_route", None, "INVALID_REQUEST"),
        ("add_route", [ROUTE], "INVALID_REQUEST"),
        ("delete_vpn", "AI.y", "INVALID_REQUEST"),
        ("drop_everything", {}, "UNKNOWN_ACTION"),
        ("", {}, "UNKNOWN_ACTION"),
        (None, {}, "UNKNOWN_ACTION"),
        ("LIST_ROUTES", {}, "UNKNOWN_ACTION"),
    ],
)
def test_every_wrong_admin_action_is_answered_with_its_code(action, payload, code):
    answer = admin(action, payload)
    assert answer.payload["status"] == "error"
    assert answer.payload["error_code"] == code


def test_the_257th_route_is_answered_and_the_next_request_works():
    book = RouteBook()
    for number in range(256):
        book, _ = add_route(book, {"prefix": f"AI.n{number}", "action": "DROP"}, LIMITS, NOW)
    answer = admin("add_route", ROUTE, book=book)
    assert answer.payload["error_code"] == "INVALID_REQUEST"
    assert "256" in answer.payload["error_detail"]
    assert admin("delete_route", {"prefix": "AI.n0"}, book=book).payload["status"] == "ok"


# --- who may (design.md §5) ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "admins", "may"),
    [
        ("SY.admin@north", (), True),
        ("SY.architect@south", (), True),
        ("AI.x@north", (), False),
        (None, ("*",), False),
        ("AI.x@north", ("*",), True),
        ("AI.x@south", ("*",), True),
        ("AI.ops@north", ("AI.ops",), True),
        ("AI.ops@south", ("AI.ops",), False),
        ("AI.ops@south", ("AI.ops@*",), True),
        ("AI.opsy@north", ("AI.ops",), False),
        ("IO.tool.7@north", ("IO.tool.*",), True),
        ("SYSTEM.x@north", (), False),
    ],
)
def test_changing_is_for_the_appliance_and_its_admin_nodes_reading_for_all(sender, admins, may):
    for action, payload in (
        ("add_route", ROUTE),
        ("add_vpn", RULE),
        ("delete_route", {"prefix": "AI.x"}),
        ("delete_vpn", {"pattern": "AI.y"}),
    ):
        answer = admin(action, payload, sender=sender, admins=admins)
        assert answer.payload["status"] == ("ok" if may else "error")
        if not may:
            assert answer.payload["error_code"] == "FORBIDDEN"
    assert admin("list_routes", {}, sender=sender, admins=admins).payload["status"] == "ok"
    assert config_set({"routes": []}, sender=sender, admins=admins).payload["ok"] is may
    got = config_message("CONFIG_GET", {"node_name": NAME}, sender=sender, admins=admins)
    assert got.payload["ok"]


# --- CONFIG_CHANGED (§4.3) ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subsystem", "config", "routes", "vpns"),
    [
        ("routes", {"routes": [ROUTE]}, 1, 1),
        ("routes", [ROUTE, {**ROUTE, "prefix": "AI.b"}], 2, 1),
        ("routes", {"routes": []}, 0, 1),
        ("vpn", {"vpns": [RULE, RULE]}, 1, 2),
        ("vpns", {"vpns": []}, 1, 0),
        ("vpns", [RULE], 1, 1),
        ("vpn", [], 1, 0),
    ],
)
def test_a_change_replaces_one_list_and_leaves_the_other(subsystem, config, routes, vpns):
    answer = changed(subsystem, 9, config)
    assert answer.payload == {"subsystem": subsystem, "version": 9, "status": "ok", "hive": HIVE}
    assert answer.message.meta.msg == "CONFIG_RESPONSE"
    assert answer.message.meta.target is None
    assert answer.message.meta.action is None
    assert answer.message.routing.ttl == 16
    assert (len(answer.book.routes), len(answer.book.vpns)) == (routes, vpns)
    assert answer.book.version == 9


@pytest.mark.parametrize(
    ("version", "same", "status", "answered", "code"),
    [
        (0, False, "ok", 6, None),
        (6, False, "ok", 6, None),
        (100, False, "ok", 100, None),
        (5, False, "error", 5, "VERSION_MISMATCH"),
        (1, False, "error", 5, "VERSION_MISMATCH"),
        (0, True, "ok", 5, None),
        (3, True, "ok", 5, None),
        (5, True, "ok", 5, None),
        (9, True, "ok", 5, None),
    ],
)
def test_version_rules_and_an_answer_in_every_case(version, same, status, answered, code):
    """Where the reference skips silently there is an answer too (FIX)."""
    answer = changed("routes", version, [{"prefix": "AI.x", "action": "DROP"}] if same else [ROUTE])
    assert answer.payload["status"] == status
    assert answer.payload["version"] == answered
    assert answer.payload.get("error_code") == code
    assert (answer.book is not None) == (status == "ok" and not same)


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"vpns": [RULE]},
        {"routes": None},
        {"routes": {}},
        {"routes": "all"},
        "routes",
        7,
        [ROUTE, {}],
        [{**ROUTE, "match_kind": "x"}],
        [{"prefix": f"AI.n{number}", "action": "DROP"} for number in range(257)],
    ],
)
def test_a_wrong_list_is_invalid_config_and_nothing_changes(config):
    answer = changed("routes", 9, config)
    assert answer.payload["status"] == "error"
    assert answer.payload["error_code"] == "INVALID_CONFIG"
    assert answer.payload["version"] == 5
    assert answer.payload["error_detail"]
    assert answer.book is None


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        "routes",
        {},
        {"subsystem": "routes"},
        {"version": 3},
        {"subsystem": 7, "version": 3, "config": []},
        {"subsystem": "routes", "version": -1, "config": []},
        {"subsystem": "routes", "version": "3", "config": []},
        {"subsystem": "routes", "version": 1.5, "config": []},
    ],
)
def test_an_unparsable_payload_is_answered_for_subsystem_unknown(payload):
    answer = ask(payload, type="system", msg="CONFIG_CHANGED")
    assert answer.payload["subsystem"] == "unknown"
    assert answer.payload["version"] == 0
    assert answer.payload["error_code"] == "INVALID_PAYLOAD"
    assert answer.book is None


@pytest.mark.parametrize("subsystem", ["opa", "storage", "node_config", "hives", "ROUTES", ""])
def test_another_subsystem_is_another_service_s(subsystem):
    answer = changed(subsystem, 9, {"routes": [ROUTE]})
    assert answer.message is None
    assert answer.book is None


@pytest.mark.parametrize("version", [MAX_VERSION + 1, 2**64, 10**40])
def test_a_version_beyond_all_libraries_is_refused_everywhere(version):
    assert changed("routes", version, [ROUTE]).payload["error_code"] in ("INVALID_CONFIG", "INVALID_PAYLOAD")
    assert not config_set({"routes": [ROUTE]}, version=version).payload["ok"]


def test_when_the_last_version_is_reached_changes_are_answered_with_an_error():
    book = RouteBook(version=MAX_VERSION)
    assert admin("add_route", ROUTE, book=book).payload["error_code"] == "VERSION_MISMATCH"
    assert changed("routes", 0, [ROUTE], book=book).payload["error_code"] == "VERSION_MISMATCH"


# --- CONFIG_GET and CONFIG_SET (node-protocol §5.2) ---------------------------------------------------


def test_config_get_shows_what_is_in_force_and_how_to_change_it():
    answer = config_message("CONFIG_GET", {"node_name": NAME, "request_id": "r"})
    payload = answer.payload
    assert payload["ok"] is True
    assert payload["state"] == "configured"
    assert payload["config_version"] == 5
    assert payload["effective_config"]["vpns"][0]["pattern"] == "AI.y"
    assert payload["contract"]["supports"] == ["CONFIG_GET", "CONFIG_SET"]
    assert answer.book is None
    empty = config_message("CONFIG_GET", {"node_name": "SY.config.routes"}, book=RouteBook())
    assert empty.payload["state"] == "empty"


@pytest.mark.parametrize(
    ("config", "routes", "vpns"),
    [
        ({"routes": []}, 0, 1),
        ({"vpns": [RULE, {**RULE, "pattern": "b"}]}, 1, 2),
        ({"routes": [], "vpns": []}, 0, 0),
    ],
)
def test_config_set_replaces_what_it_names(config, routes, vpns):
    answer = config_set(config)
    assert answer.payload["ok"]
    assert answer.payload["config_version"] == answer.book.version == 6
    assert (len(answer.book.routes), len(answer.book.vpns)) == (routes, vpns)
    assert len(answer.payload["effective_config"]["routes"]) == routes


@pytest.mark.parametrize("config", [{}, {"routes": [{"prefix": "AI.x", "action": "DROP"}]}])
def test_config_set_that_changes_nothing_is_fine(config):
    answer = config_set(config, version=3)
    assert answer.payload["ok"]
    assert answer.payload["config_version"] == 5
    assert answer.book is None


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"payload": {"node_name": "SY.other@north"}}, "INVALID_CONFIG_SET"),
        ({"payload": {"node_name": "SY.config.routes@south"}}, "INVALID_CONFIG_SET"),
        ({"payload": {"schema_version": 0}}, "INVALID_CONFIG_SET"),
        ({"payload": {"config_version": -1}}, "INVALID_CONFIG_SET"),
        ({"payload": {"config_version": None}}, "INVALID_CONFIG_SET"),
        ({"payload": {"apply_mode": "merge"}}, "UNSUPPORTED_APPLY_MODE"),
        ({"payload": {"config": []}}, "INVALID_CONFIG_SET"),
        ({"payload": {"config": {"routes": 7}}}, "INVALID_CONFIG_SET"),
        ({"payload": {"config": {"routes": [], "colour": 1}}}, "INVALID_CONFIG_SET"),
        ({"version": 5}, "VERSION_MISMATCH"),
        ({"version": 2}, "VERSION_MISMATCH"),
        ({"sender": "AI.x@north"}, "FORBIDDEN"),
    ],
)
def test_a_wrong_config_set_is_answered_with_its_code_and_the_version_in_force(more, code):
    answer = config_set({"routes": [ROUTE]}, **more)
    assert answer.payload["ok"] is False
    assert answer.payload["state"] == "error"
    assert answer.payload["config_version"] == 5
    assert answer.payload["error"]["code"] == code
    assert answer.payload["error"]["detail"]
    assert answer.book is None


@pytest.mark.parametrize("payload", [None, [], {}, {"node_name": 7}, {"node_name": "AI.else@north"}])
def test_a_wrong_config_get_is_answered(payload):
    answer = config_message("CONFIG_GET", payload)
    assert answer.payload["ok"] is False
    assert answer.payload["error"]["code"] == "INVALID_CONFIG_GET"


# --- large answers ------------------------------------------------------------------------------------


def large_book():
    book = RouteBook(version=5)
    for number in range(256):
        name = f"AI.{number:03}." + "x" * 246
        book, _ = add_route(book, {"prefix": name, "action": "DROP"}, LIMITS, NOW)
        book, _ = add_vpn(book, {"pattern": name, "vpn_id": number}, LIMITS, NOW)
    return book


def test_an_answer_that_does_not_fit_into_a_frame_leaves_the_lists_out():
    """Both lists at their bounds are larger than a frame; the answer must arrive all the same."""
    book = large_book()
    answer = config_message("CONFIG_GET", {"node_name": NAME}, book=book)
    assert len(encode_message(answer.message)) < 10_000
    assert answer.payload["ok"]
    assert answer.payload["config_version"] == book.version
    assert answer.payload.get("effective_config") is None
    assert any("list_routes" in note for note in answer.payload["contract"]["notes"])
    answer = config_set({"routes": []}, book=book)
    assert len(answer.payload["effective_config"]["vpns"]) == 256  # fits again


def test_full_lists_of_long_names_can_be_shown_one_by_one():
    for action in ("list_routes", "list_vpns"):
        answer = admin(action, {}, book=large_book())
        assert answer.payload["status"] == "ok"
        assert len(encode_message(answer.message)) < MAX_FRAME_BYTES - 2048


def test_a_list_that_even_so_does_not_fit_is_an_error_with_a_way_out():
    book = RouteBook(
        routes=tuple(
            RouteEntry(prefix=f"{number:03}" + "\x01" * 250, action=RouteAction.DROP) for number in range(256)
        )
    )
    answer = admin("list_routes", {}, book=book)
    assert answer.payload["error_code"] == "RESPONSE_TOO_LARGE"
    assert "sy-config-routes.yaml" in answer.payload["error_detail"]
    assert admin("delete_route", {"prefix": book.routes[0].prefix}, book=book).payload["status"] == "ok"


# --- when storing fails -------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
def test_what_could_not_be_stored_or_applied_is_answered_in_the_form_of_the_request(stored):
    error = Unavailable("No space left on device")
    code = "APPLY_FAILED" if stored else "PERSIST_FAILED"

    def not_done(payload, **meta):
        message = build_message(src=ASKER, dst=NAME, payload=payload, meta=Meta(**meta), trace_id="trace")
        answer = desk().not_done(message, BOOK, src=ME, error=error, stored=stored)
        assert (answer.routing.dst, answer.routing.trace_id) == (ASKER, "trace")
        return answer.json()

    answer = not_done(ROUTE, type="admin", action="add_route")
    assert (answer["status"], answer["action"], answer["error_code"]) == ("error", "add_route", code)
    assert "No space left" in answer["error_detail"]
    assert ("version 5" in answer["error_detail"]) is stored
    answer = not_done({"subsystem": "vpn", "version": 6, "config": []}, type="system", msg="CONFIG_CHANGED")
    assert (answer["subsystem"], answer["status"], answer["error_code"]) == ("vpn", "error", code)
    answer = not_done({}, type="system", msg="CONFIG_SET")
    assert (answer["ok"], answer["error"]["code"], answer["config_version"]) == (False, code, 5)


# --- everything else ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "meta",
    [
        {"type": "user"},
        {"type": "command", "action": "add_route"},
        {"type": "system", "msg": "UNREACHABLE"},
        {"type": "system", "msg": "CONFIG_RESPONSE"},
        {"type": "system", "msg": "ADD_ROUTE"},
        {"type": "system"},
        {"type": "admin_response"},
    ],
)
def test_other_messages_are_not_for_this_service(meta):
    answer = ask(ROUTE, **meta)
    assert answer.message is None
    assert answer.book is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    payload=st.one_of(
        json_values,
        st.fixed_dictionaries(
            {},
            optional={
                "subsystem": st.sampled_from(["routes", "vpn", 5]),
                "version": json_values,
                "config": json_values,
                "node_name": st.sampled_from([NAME, "x", 3]),
                "schema_version": json_values,
                "config_version": json_values,
                "apply_mode": st.sampled_from(["replace", "merge"]),
                "prefix": json_values,
                "pattern": json_values,
                "action": json_values,
                "vpn_id": json_values,
            },
        ),
    ),
    meta=st.one_of(
        st.sampled_from(["add_route", "add_vpn", "delete_route", "delete_vpn", "list_routes", "x"]).map(
            lambda action: {"type": "admin", "action": action}
        ),
        st.sampled_from(["CONFIG_CHANGED", "CONFIG_SET", "CONFIG_GET"]).map(
            lambda verb: {"type": "system", "msg": verb}
        ),
    ),
)
@settings(max_examples=400, deadline=None)
def test_no_payload_breaks_the_desk_and_every_change_is_storable(payload, meta):
    try:
        json.dumps(payload).encode()
        message_payload = json.loads(json.dumps(payload))
    except (UnicodeEncodeError, ValueError):
        return
    outcome = desk().handle(
        build(message_payload, meta),
        BOOK,
        src=ME,
        now_ms=NOW,
    )
    if outcome.book is not None:
        assert outcome.book.version > BOOK.version
        assert outcome.answer is not None
    if outcome.answer is not None:
        encode_message(outcome.answer)


def build(payload, meta):
    import msgspec

    raw = msgspec.Raw(json.dumps(payload).encode())
    message = build_message(src=ASKER, dst=NAME, payload=raw, meta=Meta(**meta), trace_id="trace")
    message.routing.src_l2_name = f"SY.admin@{HIVE}"
    return message
