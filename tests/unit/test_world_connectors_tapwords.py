"""What is shown of a failed tap: bounded, printable, without secrets."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.world.connectors import Secrets
from appliance.world.connectors.tapwords import ended_words, redacted, secrets_of

CONFIG = {"user": "anna", "deep": [{"key": 'p"ss wörd\nline two'}], "port": 54321, "on": True, "short": "ab"}


def shown(text: str) -> str:
    return redacted(text, secrets_of(Secrets(json.dumps(CONFIG)), Secrets("flux-token")))


@pytest.mark.parametrize(
    ("exit_", "words"),
    [
        ("exit 3", "exited with code 3"),
        ("signal 9", "was ended by signal 9"),
        ("cannot execute /x: Exec format error. exit 127", "cannot execute /x: Exec format error"),
        ("", "ended and nobody saw how"),
    ],
)
def test_how_it_ended(exit_, words):
    assert ended_words(exit_) == words


def test_the_end_is_shown_on_one_line():
    assert shown("") == ""
    assert shown(" one \n\n two\x1b[0m\n") == r": one | two\x1b[0m"
    assert len(shown("x" * 10_000)) <= 400


@pytest.mark.parametrize("secret", ["anna", 'p"ss wörd', "line two", "54321", "flux-token"])
def test_secrets_are_hidden_however_they_are_written(secret):
    for written in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)):
        assert shown(f"login as {written} failed").replace("'", "") == ": login as *** failed"


@given(st.text(max_size=3000))
def test_whatever_it_says_is_printable_and_bounded(text):
    words = shown(text)
    assert words.isprintable()
    assert len(words) <= 400
    assert "flux-token" not in words
