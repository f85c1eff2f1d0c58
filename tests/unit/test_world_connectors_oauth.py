"""OAuth as a client: states, links, PKCE, answers of token endpoints (AT-IN-4)."""

from __future__ import annotations

import base64
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

import pytest

from appliance.wire.errors import Invalid, Unreachable
from appliance.world.connectors.oauth import (
    PROVIDERS,
    STATE_S,
    OAuthBook,
    OAuthClientOptions,
    authorize_url,
    exchange_form,
    read_tokens,
    refresh_form,
)

CLIENT = OAuthClientOptions(client_id="id", client_secret="hush")


def test_a_state_is_used_once_and_holds_the_verifier_of_its_challenge():
    book = OAuthBook()
    state, challenge = book.begin("ns_1", "github", 0)
    pending = book.finish(state, STATE_S - 1)
    assert (pending.owner, pending.connector) == ("ns_1", "github")
    digest = sha256(pending.verifier.encode()).digest()
    assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge
    assert 43 <= len(pending.verifier) <= 128
    assert book.finish(state, 1) is None


def test_states_that_are_not_ours():
    book, other = OAuthBook(), OAuthBook()
    state, _ = book.begin("a", "github", 0)
    foreign, _ = other.begin("a", "github", 0)
    nonce, _, signature = state.partition(".")
    for wrong in (
        "",
        ".",
        nonce,
        nonce + ".",
        f"{nonce}.{signature}x",
        f"x{state}",
        foreign,
        "\u00e9.\u00e9",
    ):
        assert book.finish(wrong, 1) is None
    assert book.finish(state, STATE_S) is None, "expired"


def test_links_start_once_for_their_connector():
    book = OAuthBook()
    ticket = book.link("ns_1", "github", 0)
    assert book.finish(ticket, 1) is None, "a link is no state"
    assert book.redeem(ticket, "github", 1) == "ns_1"
    assert book.redeem(ticket, "github", 1) is None
    assert book.redeem(book.link("ns_1", "github", 0), "gmail", 1) is None
    assert book.redeem(book.link("ns_1", "github", 0), "github", STATE_S) is None


def test_the_oldest_states_go_first():
    book = OAuthBook()
    first, _ = book.begin("a", "github", 0)
    states = [book.begin("a", "github", 0)[0] for _ in range(1000)]
    assert book.finish(first, 1) is None
    assert book.finish(states[0], 1) is not None


def test_where_the_browser_goes():
    url = authorize_url(
        PROVIDERS["github"].authorize_url,
        client_id="a b&c",
        redirect_uri="http://localhost:3000/x",
        scope="repo read:user",
        state="s.t",
        challenge="c",
    )
    assert "scope=repo%20read%3Auser" in url
    query = parse_qs(urlsplit(url).query)
    assert query["client_id"] == ["a b&c"]
    assert query["redirect_uri"] == ["http://localhost:3000/x"]
    assert (query["response_type"], query["code_challenge_method"]) == (["code"], ["S256"])
    assert "?a=1&client_id" in authorize_url(
        "https://x/?a=1", client_id="i", redirect_uri="r", scope="s", state="t", challenge="c"
    )


def test_what_the_token_endpoint_is_asked():
    form = parse_qs(exchange_form(CLIENT, code="c", redirect_uri="r", verifier="v").decode())
    assert form == {
        "grant_type": ["authorization_code"],
        "code": ["c"],
        "redirect_uri": ["r"],
        "client_id": ["id"],
        "client_secret": ["hush"],
        "code_verifier": ["v"],
    }
    assert parse_qs(refresh_form(OAuthClientOptions(), "t").decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["t"],
    }


def test_tokens():
    tokens = read_tokens(200, b'{"access_token":"a","refresh_token":"r","expires_in":60,"scope":"x"}')
    assert (tokens.access_token, tokens.refresh_token, tokens.expires_in) == ("a", "r", 60)
    assert read_tokens(201, b'{"access_token":"a"}').refresh_token is None
    assert "hush" not in repr(CLIENT)
    assert "'a'" not in repr(tokens)


@pytest.mark.parametrize("status", [200, 400, 401])
def test_a_denial_whatever_its_status(status):
    with pytest.raises(Invalid, match="bad_verification_code - The code passed"):
        read_tokens(
            status, b'{"error":"bad_verification_code","error_description":"The code passed is wrong"}'
        )
    with pytest.raises(Invalid, match="nope - Unknown error"):
        read_tokens(status, b'{"error":"nope"}')


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"access_token":""}', b'{"access_token":7}', b"\xff"]
)
def test_answers_that_are_none(body):
    for status in (200, 500):
        with pytest.raises(Unreachable):
            read_tokens(status, body)


def test_every_known_provider_is_asked_by_https():
    assert list(PROVIDERS) == ["github", "gmail", "linkedin", "calendar"]
    for provider in PROVIDERS.values():
        assert provider.authorize_url.startswith("https://")
        assert provider.token_url.startswith("https://")
