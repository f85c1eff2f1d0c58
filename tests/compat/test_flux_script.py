"""``flux.sh`` of the skill, in a real shell against a real box: outputs and exit codes (CL-01 to CL-23)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.testing.hive import HiveHarness, free_port
from tests.fake_web import serving

from .world_kit import ADMIN, http, world_hive

pytestmark = pytest.mark.process

SKILL = Path(__file__).parents[2] / "docs" / "skills" / "flux"
SCRIPT = SKILL / "scripts" / "flux.sh"
ODD_IDS = [
    "plain",
    "lab/lamp-1",
    "a/b/c",
    "with space",
    'with "quotes"',
    "back\\slash",
    "percent%41?and#hash&more=1+2",
    "Grüße/温度/🌡",
    "'single' $HOME `id` $(id)",
    "*",
    "--dashes",
]


class Shell:
    """Runs the script."""

    def __init__(self, url: str, **variables: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        self.environment = {**inherited, "FLUX_URL": url, **variables}

    def __call__(self, *words: str, code: int = 0, path: str | None = None) -> tuple[str, str]:
        environment = self.environment if path is None else {**self.environment, "PATH": path}
        told = subprocess.run(
            ["/bin/bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=60
        )
        assert told.returncode == code, told.stdout + told.stderr
        return told.stdout, told.stderr


@pytest.fixture(scope="module")
def hive() -> Iterator[HiveHarness]:
    with world_hive() as hive:
        yield hive


@pytest.fixture
def flux(hive: HiveHarness) -> Iterator[Shell]:
    yield Shell(hive.world_url)
    with http(hive) as client:
        client.post("/api/state/entities/delete", json={"prefix": "", "confirm": "all"})


def answer(output: tuple[str, str]) -> object:
    """The JSON at the end of what was printed."""
    return json.loads(output[0][re.search(r"^[\[{]", output[0], re.M).start() :])  # type: ignore[union-attr]


def test_publish_get_list_delete(flux):
    told = flux("publish", "sensors", "lab", "lab/lamp-1", '{"on": true, "watts": 4.2}')
    assert told[0].startswith("Publishing event to Flux...\n")
    assert answer(told)["stream"] == "sensors"
    assert len(answer(told)["eventId"]) == 36
    entity = answer(flux("get", "lab/lamp-1"))
    assert entity["properties"] == {"on": True, "watts": 4.2}
    flux("publish", "sensors", "lab", "other/x", "{}", code=0)
    flux("publish", "sensors", "lab", "lab2", '{"a": 1}')
    assert [one["id"] for one in answer(flux("list"))] == ["lab/lamp-1", "lab2"]
    assert [one["id"] for one in answer(flux("list", "--prefix", "lab/"))] == ["lab/lamp-1"]
    assert [one["id"] for one in answer(flux("list", "--namespace", "lab"))] == ["lab/lamp-1"]
    assert flux("list", "--prefix", "none")[0].strip() == "[]"
    told = flux("delete", "lab/lamp-1")
    assert told[0].startswith("Deleting entity lab/lamp-1...\n")
    assert answer(told)["entity_id"] == "lab/lamp-1"
    out, error = flux("get", "lab/lamp-1", code=1)
    assert json.loads(out) == {"error": "Entity not found"}
    assert error == "Error: the box answered 404\n"


@pytest.mark.parametrize("entity", ODD_IDS)
def test_any_id_survives_the_shell_the_url_and_json(flux, entity):
    """CL-22 [ours]."""
    flux("publish", "sensors", 'a "source" \\ é', entity, '{"v": 1}')
    assert answer(flux("get", entity))["id"] == entity
    assert [one["id"] for one in answer(flux("list", "--prefix", entity))] == [entity]
    assert answer(flux("delete", entity))["entity_id"] == entity
    assert answer(flux("list")) == []


def test_control_characters_are_the_boxs_to_refuse(flux):
    out, error = flux("publish", "sensors", "lab", "a\nb\t\x01", "{}", code=1)
    assert "control characters" in out
    assert "400" in error


def test_batches(flux):
    events = [
        {"stream": "sensors", "source": "lab", "payload": {"entity_id": f"tmp-{n}", "properties": {"n": n}}}
        for n in range(3)
    ]
    told = flux("batch", json.dumps(events))
    assert told[0].startswith("Publishing batch to Flux...\n")
    assert answer(told)["successful"] == 3
    told = flux("batch-delete", '{"prefix":"tmp-"}')
    assert told[0].startswith("Batch deleting entities...\n")
    assert answer(told) == {"deleted": 3, "failed": 0, "errors": []}
    assert "400" in flux("batch", "nonsense", code=1)[1]
    assert "400" in flux("batch-delete", '{"prefix":""}', code=1)[1]
    flux("publish", "Bad Stream", "lab", "x", "{}", code=1)
    flux("publish", "sensors", "lab", "x", "no json", code=1)


def test_what_the_skill_shows_works(flux):
    """The examples of the page, as they stand there."""
    text = (SKILL / "SKILL.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    assert len(blocks) == 4
    (script,) = [block for block in blocks if "publish sensors" in block]
    for block in (script, blocks[2]):
        told = subprocess.run(
            ["/bin/bash", "-ec", block],
            env=flux.environment,
            cwd=SKILL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert told.returncode == 0, told.stdout + told.stderr


def test_the_pages_head_names_the_skill():
    head = (SKILL / "SKILL.md").read_text().split("---")[1]
    assert re.search(r"^name: flux$", head, re.M)
    assert SKILL.name == "flux"
    assert os.access(SCRIPT, os.X_OK)


def test_connectors_and_limits(flux, hive):
    assert answer(flux("connectors"))["connectors"][0]["name"] == "github"
    before = answer(flux("admin-config"))
    assert before["rate_limit_per_namespace_per_minute"] == 10000
    assert flux("admin-config", "{}", code=1)[1] == "Error: FLUX_ADMIN_TOKEN not set\n"
    admin = Shell(hive.world_url, FLUX_ADMIN_TOKEN=ADMIN)
    changed = answer(admin("admin-config", '{"rate_limit_per_namespace_per_minute": 600}'))
    assert changed == {**before, "rate_limit_per_namespace_per_minute": 600}
    wrong = Shell(hive.world_url, FLUX_ADMIN_TOKEN="guess")
    assert json.loads(wrong("admin-config", "{}", code=1)[0]) == {"error": "Unauthorized"}


def test_health(flux, hive):
    told = flux("health")[0]
    assert (
        told
        == f"Testing Flux connection at {hive.world_url}...\n✓ Flux is reachable\n  Entities in state: 0\n"
    )
    flux("publish", "s", "s", "x", '{"a":1}')
    assert "Entities in state: 1\n" in flux("health")[0]
    assert "reachable" in Shell(hive.world_url + "/")("health")[0], "a slash at the end is no matter"


def test_a_box_that_is_not_there():
    gone = Shell(f"http://127.0.0.1:{free_port()}")
    assert "✗ Failed to reach Flux at http://127.0.0.1:" in gone("health", code=1)[0]
    for words in (
        ("get", "x"),
        ("list",),
        ("publish", "s", "s", "e", "{}"),
        ("delete", "x"),
        ("connectors",),
    ):
        assert "Failed to reach Flux" in gone(*words, code=2)[1]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("publish",),
        ("publish", "s", "s", "e"),
        ("publish", "s", "s", "e", "{}", "more"),
        ("batch",),
        ("get",),
        ("get", "a", "b"),
        ("delete",),
        ("batch-delete",),
        ("list", "--prefix"),
        ("list", "--other", "x"),
        ("admin-config", "a", "b"),
    ],
)
def test_wrong_use(words):
    """CL-11: one line or the usage, exit 1, and nothing is asked."""
    out, error = Shell("http://127.0.0.1:1")(*words, code=1)
    assert "sage: flux.sh" in error
    assert out == ""


def test_help():
    assert "Usage: flux.sh COMMAND" in Shell("")("--help")[0]


def test_tokens_travel_in_the_header_and_not_in_arguments(tmp_path):
    real = shutil.which("curl")
    assert real is not None
    spy = tmp_path / "curl"
    spy.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >>"{tmp_path}/words"\nexec {real} "$@"\n')
    spy.chmod(0o755)
    with serving() as web:
        web.on("/api/state/entities", [])
        web.on("/api/events", {"eventId": "x"})
        shell = Shell(web.base, FLUX_TOKEN='secret"token')
        shell("list", path=f"{tmp_path}:{os.environ['PATH']}")
        shell("publish", "s", "s", "e", '{"password": "hush"}', path=f"{tmp_path}:{os.environ['PATH']}")
        assert {one.headers["authorization"] for one in web.asked} == {"Bearer secrettoken"}
    words = (tmp_path / "words").read_text()
    assert "secret" not in words
    assert "hush" not in words


def test_answers_that_are_not_json_are_printed_as_they_are():
    with serving() as web:
        web.on("/api/state/entities", b"<html>busy</html>", 502)
        out, error = Shell(web.base)("list", code=1)
        assert out == "<html>busy</html>\n"
        assert error == "Error: the box answered 502\n"


def test_without_jq(tmp_path, hive, flux):
    for tool in ("curl", "date", "grep", "wc", "tr", "cat"):
        (tmp_path / tool).symlink_to(shutil.which(tool))  # type: ignore[arg-type]
    flux("publish", "s", "s", "x", '{"a":1}', path=str(tmp_path))
    assert json.loads(flux("get", "x", path=str(tmp_path))[0])["properties"] == {"a": 1}
    assert "Entities in state: 1\n" in flux("health", path=str(tmp_path))[0]
