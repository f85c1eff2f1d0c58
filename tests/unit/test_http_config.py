"""A door's configuration is judged before anything is bound."""

from __future__ import annotations

import pytest

from appliance.http.config import DoorConfig, Listen, is_loopback, parse_listen
from appliance.wire.errors import Misconfigured


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        (" localhost:0 ", "localhost", 0),
        ("[::1]:3000", "::1", 3000),
        ("box.local:65535", "box.local", 65535),
    ],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == Listen(host, port)


@pytest.mark.parametrize("text", ["", "8080", ":8080", "::1:8080", "[::1]", "a:b", "a:65536", "a:-1", "a:²"])
def test_what_is_no_address_names_its_key(text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_listen(text, key="admin.listen")
    assert "admin.listen" in str(caught.value)
    assert caught.value.field == "admin.listen"


def test_addresses_print_as_they_are_written() -> None:
    assert str(Listen("::1", 80)) == "[::1]:80"
    assert str(Listen("127.0.0.1", 80)) == "127.0.0.1:80"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("::ffff:192.168.1.2", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_only_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_off_loopback_needs_a_token() -> None:
    with pytest.raises(Misconfigured, match="no token") as caught:
        DoorConfig(name="admin", listen="0.0.0.0:8080", key="admin.listen").address()
    assert "127.0.0.1:8080" in caught.value.remedy
    assert DoorConfig(name="admin", listen="0.0.0.0:8080", token="s3cret").address().port == 8080


def test_an_empty_token_is_no_token() -> None:
    with pytest.raises(Misconfigured, match="empty"):
        DoorConfig(name="admin", listen="0.0.0.0:8080", token=" ").address()


def test_the_body_limit_may_depend_on_the_path() -> None:
    fixed = DoorConfig(name="d", max_body_bytes=10)
    by_path = DoorConfig(name="d", max_body_bytes=lambda scope: len(scope["path"]))
    assert fixed.body_limit({}) == 10
    assert by_path.body_limit({"path": "/abc"}) == 4
