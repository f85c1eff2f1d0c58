"""Namespaces: ``spec/flux-state.md §2.5, §3.4``, AT-NS, AT-ID."""

from __future__ import annotations

import re

import pytest

from appliance.wire.errors import Conflict, Invalid, NotFound
from appliance.world import Caller, Namespace
from appliance.world.namespaces import Registry, check_name, namespace_of, new_id, new_token, token_hash


def made(name: str, token: str) -> Namespace:
    return Namespace(namespace_id=new_id(), name=name, created_at_ms=1, token_sha256=token_hash(token))


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.put(made("matt", "token-matt"))
    registry.put(made("arc", "token-arc"))
    return registry


@pytest.mark.parametrize("name", ["matt", "arc", "sensor-team", "test_123", "a" * 32])
def test_names_that_are_valid(name):
    """AT-NS-1."""
    check_name(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ab", "too short (minimum 3 characters)"),
        ("a" * 33, "too long (maximum 32 characters)"),
        ("Matt", "Invalid character 'M' (must be [a-z0-9-_])"),
        ("a.b", "Invalid character '.'"),
        ("a@b", "Invalid character '@'"),
        ("a b", "Invalid character ' '"),
        ("abc\n", "Invalid character '\n'"),
    ],
)
def test_names_that_are_not(name, words):
    """AT-NS-2 to AT-NS-4, EP-50."""
    with pytest.raises(Invalid, match=re.escape(words)):
        check_name(name)


@pytest.mark.parametrize(
    ("entity_id", "name"),
    [
        ("matt/sensor-01", "matt"),
        ("alice_123/device-xyz", "alice_123"),
        ("matt/a/b/c", "matt"),
        ("matt/sensor@01.example.com", "matt"),
        ("sensor", None),
        ("/sensor", None),
        ("matt/", None),
        ("ab/s", None),
        ("Matt/s", None),
    ],
)
def test_the_namespace_of_an_id(entity_id, name):
    """ST-20, ST-22, AT-ID-1 to AT-ID-15."""
    assert namespace_of(entity_id) == name


def test_ids_and_tokens_look_as_they_should():
    """AT-NS-5, AT-NS-15, AT-NS-18."""
    assert re.fullmatch(r"ns_[0-9a-z]{8}", new_id())
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", new_token())
    assert new_token() != new_token()


def test_registering_and_removing(registry):
    """AT-NS-6, AT-NS-14, AT-NS-16, AT-NS-17."""
    with pytest.raises(Conflict, match="Namespace name already exists"):
        registry.check_new("matt")
    with pytest.raises(NotFound, match="Namespace not found"):
        registry.require("nobody")
    assert [one.name for one in registry.all()] == ["arc", "matt"]
    registry.remove("matt")
    registry.remove("matt")
    assert registry.get("matt") is None
    assert registry.owner("token-matt") is None
    assert len(registry) == 1


def test_a_new_token_ends_the_old_one(registry):
    """DF-24."""
    registry.put(made("matt", "other"))
    assert registry.owner("token-matt") is None
    assert registry.owner("other").name == "matt"
    assert registry.owner(None) is None
    assert registry.owner("") is None


@pytest.mark.parametrize(
    ("entity_id", "token", "kind", "text"),
    [
        ("matt/x", "token-matt", None, None),
        ("matt/x/y", "token-matt", None, None),
        ("matt/x", None, "authorization", "Authorization token not provided"),
        (None, "token-matt", "entity", "Missing 'entity_id' field in payload"),
        (7, "token-matt", "entity", "Missing 'entity_id' field in payload"),
        ("pump", "token-matt", "entity", "Entity ID 'pump' missing namespace prefix"),
        ("/x", "token-matt", "entity", "Failed to parse entity_id '/x': "),
        ("matt/", "token-matt", "entity", "Failed to parse entity_id 'matt/': "),
        ("ab/x", "token-matt", "entity", "Failed to parse entity_id 'ab/x': Namespace name too short"),
        ("none/x", "token-matt", "namespace", "Namespace 'none' not found"),
        ("arc/x", "token-matt", "forbidden", "Token does not have permission to write to namespace 'arc'"),
        ("matt/x", "wrong", "forbidden", "Token does not have permission to write to namespace 'matt'"),
    ],
)
def test_who_may_write_what(registry, entity_id, token, kind, text):
    """EP-01, AT-NS-10 to AT-NS-13."""
    problem = registry.refusal(entity_id, Caller(token=token), registry.owner(token))
    if kind is None:
        assert problem is None
    else:
        assert problem.kind == kind
        assert problem.text.startswith(text)
        assert problem.batch_text.startswith("authorization failed: ")
