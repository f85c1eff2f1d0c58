"""What the operators' verbs share: which API, which hive, configuration words, errors, spinner."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator

import pytest

from appliance.cli.api import Envelope
from appliance.cli.operate import Operator, explained, given_config, local_access, show, spinning, when
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound, Refused
from tests.unit.cli_stub import Api, envelope, failure, serving


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("FLUXBEE_BASE", "BASE", "FLUXBEE_HTTP_TOKEN", "TENANT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as api:
        yield api


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"base": None, "root": None, "hive": None, "json": False, **given})


def test_where_the_api_is(monkeypatch, tmp_path):
    assert Operator(options()).api.base == "http://127.0.0.1:8080"
    (tmp_path / "etc").mkdir()
    config = tmp_path / "etc" / "hive.yaml"
    config.write_text("admin:\n  listen: 0.0.0.0:9000\nhttp:\n  token: sesame-sesame-sesame\n")
    assert local_access(options()) == ("http://127.0.0.1:9000", "sesame-sesame-sesame")
    assert Operator(options()).api.base == "http://127.0.0.1:9000"
    config.write_text("admin:\n  listen: 127.0.0.1:0\n")
    assert local_access(options())[0] is None
    config.write_text("nonsense: [")
    assert local_access(options()) == (None, None)
    monkeypatch.setenv("BASE", "http://b:1")
    assert Operator(options()).api.base == "http://b:1"
    monkeypatch.setenv("FLUXBEE_BASE", "http://f:1")
    assert Operator(options()).api.base == "http://f:1"
    assert Operator(options(base="http://o:1/")).api.base == "http://o:1"


def test_a_foreign_box_does_not_get_this_boxs_token(monkeypatch, tmp_path, api):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "hive.yaml").write_text("http:\n  token: sesame-sesame-sesame\n")
    Operator(options(base=api.base)).get("/hive/status")
    assert api.tokens == {None}
    monkeypatch.setenv("FLUXBEE_HTTP_TOKEN", "given")
    Operator(options(base=api.base)).get("/hive/status")
    assert "Bearer given" in api.tokens


def test_which_hive_is_meant(api):
    operator = Operator(options(base=api.base))
    assert operator.node_path("AI.x@h2", "status") == "/hives/h2/nodes/AI.x@h2/status"
    assert api.asked == []
    assert operator.node_path("AI.x") == "/hives/h1/nodes/AI.x@h1"
    assert operator.hive_path("runtimes", "a/b") == "/hives/h1/runtimes/a%2Fb"
    assert len(api.asked) == 1, "asked once"
    assert Operator(options(base=api.base, hive="h3")).hive_path() == "/hives/h3"
    api.on("GET /hive/status", envelope({}))
    with pytest.raises(NotFound, match="called"):
        _ = Operator(options(base=api.base)).hive


@pytest.mark.parametrize(
    ("code", "http", "kind"),
    [
        ("NODE_ALREADY_EXISTS", 500, Conflict),
        ("NODE_CONFIG_NOT_FOUND", 500, NotFound),
        ("NOT_PRIMARY", 409, Conflict),
        ("FORBIDDEN", 403, Refused),
        ("SURPRISE", 500, FluxbeeError),
    ],
)
def test_failures_are_errors_of_their_kind(api, code, http, kind):
    api.on("GET /x", failure(code, http=http))
    with pytest.raises(kind, match=f"{code}: why") as told:
        Operator(options(base=api.base)).get("/x")
    assert type(told.value) is kind
    assert told.value.code == code


def test_an_error_that_nobody_knows_stays_as_it_is():
    error = Invalid("x", code="OTHER")
    assert explained(error) is error


def test_queries_leave_out_what_is_absent(api):
    api.on("GET /x?a=1&b=c+d", envelope({}))
    Operator(options(base=api.base)).get("/x", {"a": 1, "b": "c d", "c": None})


def test_configuration_words(tmp_path):
    file = tmp_path / "c.json"
    file.write_text('{"a": 1, "b": 2}')
    secret = tmp_path / "key"
    secret.write_text("sesame\n")
    pairs = ["b=true", "c=word", "d=", 'e={"f": [1]}', f"g=@{secret}", "h=a=b"]
    expected = {"a": 1, "b": True, "c": "word", "d": "", "e": {"f": [1]}, "g": "sesame", "h": "a=b"}
    assert given_config(argparse.Namespace(config=str(file), set=pairs)) == expected
    assert given_config(argparse.Namespace(config=' {"a": 3}', set=None)) == {"a": 3}
    assert given_config(argparse.Namespace(config=None, set=None)) == {}


@pytest.mark.parametrize(
    ("config", "pairs"),
    [("{", None), ("[1]", None), ("/none", None), (None, ["x"]), (None, ["=1"]), (None, ["a=@/none"])],
)
def test_configuration_words_that_say_nothing(config, pairs):
    with pytest.raises(Invalid):
        given_config(argparse.Namespace(config=config, set=pairs))


def test_show_prints_for_people_or_for_programs(capsys):
    answer = Envelope(status="ok", payload={"a": 1}, http_status=200)
    show(options(json=True), answer, lambda _: None)
    assert '"a": 1' in capsys.readouterr().out
    show(options(), answer, lambda payload: print(payload["a"]))
    assert capsys.readouterr().out == "1\n"


def test_times():
    assert when(None) == when("") == when(0) == ""
    assert when("2026-01-01T00:00:00Z") == "2026-01-01T00:00:00Z"
    assert when(1_790_000_012_345) == when("1790000012345") != ""


def test_the_spinner_turns_on_terminals_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with spinning("AI.x") as turn:
        turn("STARTING")
    assert "AI.x: STARTING" in screen.getvalue()
    assert screen.getvalue().endswith("\r\033[K")
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    with spinning("AI.x") as turn:
        turn("STARTING")
    assert quiet.getvalue() == ""
