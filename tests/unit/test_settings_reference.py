"""The generated reference page and JSON Schema are the stored ones, and say what the reader does."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from appliance.settings import Settings
from appliance.settings.forms import FORMS
from appliance.settings.keys import leaves
from appliance.settings.reference import json_schema, markdown, show

REPOSITORY = Path(__file__).parents[2]


def test_the_stored_schema_is_up_to_date() -> None:
    stored = (REPOSITORY / "config/hive.schema.json").read_text()
    assert stored == json_schema(), "run: fluxbee config schema > config/hive.schema.json"


def test_the_stored_page_is_up_to_date() -> None:
    stored = (REPOSITORY / "docs/reference/configuration.md").read_text()
    assert stored == markdown(), "run: fluxbee config schema --markdown > docs/reference/configuration.md"


@pytest.mark.parametrize("name", ["development", "motherbee", "worker"])
def test_templates_fit_the_schema(name: str) -> None:
    document = yaml.safe_load((REPOSITORY / f"config/{name}.yaml").read_text())
    jsonschema_rs.validator_for(json.loads(json_schema())).validate(document)


@pytest.mark.parametrize(
    "document",
    [
        {"hive_id": "a b"},
        {"unknown": 1},
        {"wan": {"uplinks": [{}]}},
        {"nats": {"port": 0}},
        {"role": "boss"},
        {"security": {"system_uids": [-1]}},
        {"blob": {"enabled": "x"}},
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(document: object) -> None:
    assert not jsonschema_rs.validator_for(json.loads(json_schema())).is_valid(document)


def test_defaults_fit_their_own_schema() -> None:
    validator = jsonschema_rs.validator_for(json.loads(json_schema()))
    for leaf in leaves(Settings).values():
        if leaf.default is not None:
            document: object = list(leaf.default) if isinstance(leaf.default, tuple) else leaf.default
            for part in reversed(leaf.name.split(".")):
                document = {part: document}
            validator.validate(document)


def test_the_page_names_every_key_and_variable() -> None:
    page = markdown()
    for leaf in leaves(Settings).values():
        assert f"| `{leaf.name}` |" in page
        assert all(f"`{name}`" in page for name in leaf.env)


def test_a_cell_never_breaks_its_table() -> None:
    for line in markdown().splitlines():
        if line.startswith("| `") and line.count(" | ") > 2:
            assert line.replace("\\|", "").count("|") == 5, line


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "true"), (False, "false"), (3, "3"), ((), "[]"), (("a", "b"), "[a, b]"), ("x", "x")],
)
def test_show(value: object, text: str) -> None:
    assert show(value) == text


GOOD_AND_BAD = {
    "address": (
        ["h:1", "[::1]:9", "10.0.0.1:65535"],
        ["h", "h:0", "h:65536", ":1", "a b:1", "[zz]:1", "::1:9"],
    ),
    "listen": (["127.0.0.1:0", "0.0.0.0:80"], ["80", "[1.2.3.4]:1"]),
    "hive_id": (["a-b_1"], ["", "a.b", "x" * 65, "a\n"]),
    "router_name": (["RT.gateway", "RT.a@h"], ["AI.x", "RT.", "RT"]),
    "node_name": (["SY.a.b", "AI.x@h"], ["x", "QQ.a", "SY.a@b c"]),
    "node_pattern": (["*", "AI.*@h"], ["", "a b", "x" * 257]),
    "node_namespace": (["AI.pump*@*=plant", "IO.x@h=a-b_c"], ["AI.x@h", "=plant", "AI.x@h=Ab", "a b=plant"]),
    "tap": (["tap-csv=/usr/bin/tap-csv", "t=/a b"], ["tap-csv", "tap-csv=bin/x", "Tap=/x", "-a=/x", "=/x"]),
    "world_namespace": (["box", "a-b_1"], ["ab", "Box", "a/b", "x" * 33]),
    "host_or_network": (["meter.lan", "a:8080", "10.0.0.0/8", "::1", "fe80::/10"], ["", "a/b", "u@h", "-a"]),
    "path": (["/a", "./b c"], ["", "a\0b", "x" * 4097]),
    "name": (["fluxbee"], ["", "a b"]),
    "host": (["box.local", "::1"], ["a/b", ""]),
    "origin": (
        ["https://a:1", "http://a"],
        ["*", "a", "https://a/", "ftp://a", "https://[", "http://a:99999"],
    ),
    "http_url": (["http://a/b", "https://a"], ["ftp://a", "http://"]),
    "nats_url": (["nats://h:1"], ["http://h", "nats://"]),
    "postgres_url": (["postgres://u:p@h/d", "postgresql://h"], ["mysql://h"]),
    "mode": (["0660", "600"], ["0888", "6", "07777"]),
    "token": (["x" * 16], ["x" * 15, "x" * 15 + " y", "ä" * 16]),
    "bearer": (["x"], ["", "a b"]),
    "key32": (["A" * 43 + "="], ["A" * 44, "", "%%%", "ä"]),
    "tenant_id": (
        ["tnt:00000000-0000-4000-8000-000000000000"],
        ["tnt:1", "00000000-0000-4000-8000-000000000000"],
    ),
    "word": (["a b"], ["", "a\tb"]),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    good, bad = GOOD_AND_BAD[name]
    assert [text for text in good if not FORMS[name].fits(text)] == []
    assert [text for text in bad if FORMS[name].fits(text)] == []
