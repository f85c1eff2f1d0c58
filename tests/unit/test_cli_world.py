"""`fluxbee world …`: what is asked for, what is printed, how it ends."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator

import pytest

from appliance.cli import main
from appliance.cli.output import ExitCode
from tests.fake_web import Web, serving

Run = Callable[..., int]
LAMP = {
    "id": "lab/lamp-1",
    "properties": {"on": True, "watts": 4.2},
    "lastUpdated": "2026-02-02T02:40:00.123+00:00",
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("FLUX_URL", "FLUX_TOKEN", "FLUX_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def run(web: Web) -> Run:
    return lambda *words: main(["world", *words, "--url", web.base])


def said(capsys) -> str:
    return capsys.readouterr().out


def test_health(web, run, capsys):
    web.on("/api/state/entities", [LAMP])
    assert run("health") == ExitCode.OK
    assert said(capsys) == f"{web.base} is reachable; 1 entities\n"
    run("health", "--json")
    assert json.loads(said(capsys)) == {"url": web.base, "entities": 1}
    web.on("/api/state/entities", {"not": "a world"})
    assert run("health") == ExitCode.UNREACHABLE


def test_get(web, run, capsys):
    web.on("/api/state/entities/lab%2Flamp-1", LAMP)
    assert run("get", "lab/lamp-1") == ExitCode.OK
    assert said(capsys).splitlines()[0] == "lab/lamp-1  2026-02-02T02:40:00.123+00:00"
    assert run("get", "lab/lamp-1", "--json") == ExitCode.OK
    assert json.loads(said(capsys)) == LAMP
    run("get", "lab/lamp-1", "--at", "17")
    run("get", "lab/lamp-1", "--at", "2026-01-01T00:00:00Z")
    assert [one.query for one in web.asked[-2:]] == [{"seq": "17"}, {"at": "2026-01-01T00:00:00Z"}]
    web.on("/api/state/entities/gone", {"error": "Entity not found"}, 404)
    assert run("get", "gone") == ExitCode.NOT_FOUND


def test_values_cannot_drive_the_terminal(web, run, capsys):
    evil = {**LAMP, "id": "x\x1b[2J", "properties": {"\x1b]0;a": "\x1b[31m\n"}}
    web.on("/api/state/entities/x", evil)
    web.on("/api/state/entities", [evil])
    run("get", "x")
    run("list")
    assert "\x1b" not in said(capsys)


def test_list(web, run, capsys):
    web.on("/api/state/entities", [LAMP])
    assert run("list", "--prefix", "lab/&=", "--namespace", "lab") == ExitCode.OK
    assert web.asked[-1].query == {"prefix": "lab/&=", "namespace": "lab"}
    told = said(capsys)
    assert told.split()[:3] == ["ENTITY", "UPDATED", "PROPERTIES"]
    assert '{"on": true, "watts": 4.2}' in told
    run("list", "--json")
    assert json.loads(said(capsys)) == [LAMP]


def test_history(web, run, capsys):
    event = {
        "eventId": "e",
        "stream": "sensors",
        "source": "lab",
        "timestamp": 1_770_000_000_123,
        "payload": {"entity_id": "x", "properties": {"a": 1}},
    }
    web.on("/api/events", [event, {**event, "timestamp": 10**17, "payload": {"entity_id": "x"}}])
    assert run("history", "x", "--limit", "5", "--since", "2026-01-01T00:00:00Z") == ExitCode.OK
    assert web.asked[-1].query == {"entity": "x", "limit": "5", "since": "2026-01-01T00:00:00Z"}
    told = said(capsys)
    assert '{"a": 1}' in told
    assert str(10**17) in told


def test_publish(web, run, capsys):
    web.on("/api/events", {"eventId": "e1", "stream": "sensors", "seq": 7})
    assert run("publish", "sensors", "lab", "lab/x", '{"on": true, "n": "é"}', "--id", "mine") == ExitCode.OK
    assert json.loads(web.asked[-1].body) == {
        "stream": "sensors",
        "source": "lab",
        "payload": {"entity_id": "lab/x", "properties": {"on": True, "n": "é"}},
        "eventId": "mine",
    }
    assert "e1" in said(capsys)
    assert run("publish", "sensors", "lab", "lab/x", "nonsense") == ExitCode.USAGE
    assert len(web.asked) == 1
    web.on("/api/events", {"error": "invalid stream format"}, 400)
    assert run("publish", "Bad", "lab", "x", "{}") == ExitCode.USAGE


def test_batches_from_everywhere(web, run, capsys, tmp_path, monkeypatch):
    events = '[{"stream":"s","source":"s","payload":{}}]'
    web.on("/api/events/batch", {"successful": 1, "failed": 0, "results": []})
    file = tmp_path / "events.json"
    file.write_text(events)
    monkeypatch.setattr(sys, "stdin", io.StringIO(events))
    for words in (events, str(file), "-"):
        assert run("batch", words) == ExitCode.OK
        assert json.loads(web.asked[-1].body) == {"events": json.loads(events)}
    web.on("/api/events/batch", {"successful": 0, "failed": 1, "results": []})
    assert run("batch", events) == ExitCode.FAILED
    assert run("batch", '{"a": 1}') == ExitCode.USAGE
    assert run("batch", "[") == ExitCode.USAGE
    assert run("batch", str(tmp_path / "none.json")) == ExitCode.FAILED


def test_delete(web, run, capsys):
    web.on("/api/state/entities/lab%2Fx", {"entity_id": "lab/x", "eventId": "e"})
    assert run("delete", "lab/x", "--json") == ExitCode.OK
    assert web.asked[-1].method == "DELETE"
    assert json.loads(said(capsys)) == {"entity_id": "lab/x", "eventId": "e"}


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (("--prefix", "tmp-"), {"prefix": "tmp-"}),
        (("--namespace", "plant"), {"namespace": "plant"}),
        (("a", "b"), {"entity_ids": ["a", "b"]}),
    ],
)
def test_batch_delete(web, run, words, body):
    web.on("/api/state/entities/delete", {"deleted": 2, "failed": 0, "errors": []})
    assert run("batch-delete", *words) == ExitCode.OK
    assert json.loads(web.asked[-1].body) == body


@pytest.mark.parametrize("words", [(), ("a", "--prefix", "b"), ("--prefix", "a", "--namespace", "b")])
def test_a_deletion_that_is_not_clear_asks_nothing(web, run, words):
    assert run("batch-delete", *words) == ExitCode.USAGE
    assert not web.asked


def test_connectors(web, run, capsys):
    rows = [
        {"name": "github", "type": "builtin", "enabled": False, "status": "stopped"},
        {"name": "meter", "type": "generic", "enabled": True, "status": "error", "last_error": "no answer"},
    ]
    web.on("/api/connector-manager/connectors", rows)
    assert run("connectors") == ExitCode.OK
    assert "no answer" in said(capsys)
    run("connectors", "--json")
    assert json.loads(said(capsys)) == rows


def test_a_source_is_added(web, run, capsys, monkeypatch):
    path = "/api/connector-manager/connectors/generic"
    web.on(path, {"source_id": "s1"}, 201)
    assert run("add-source", "http://10.0.0.9/x", "plant/line/2", "--json") == ExitCode.OK
    assert json.loads(said(capsys)) == {"source_id": "s1"}
    assert json.loads(web.asked[-1].body) == {
        "name": "plant/line/2",
        "url": "http://10.0.0.9/x",
        "poll_interval_secs": 30.0,
        "namespace": "plant",
        "entity_key": "line/2",
    }
    monkeypatch.setenv("FLUX_SOURCE_TOKEN", "hush")
    monkeypatch.setenv("FLUX_ADMIN_TOKEN", "sesame")
    words = ("a=b.c[0]", "d=$", "--name", "meter", "--every", "5", "--auth", "X-API-Key")
    assert run("add-source", "http://10.0.0.9/x", "plant/m", *words) == ExitCode.OK
    body = json.loads(web.asked[-1].body)
    assert body["mapping"] == {"a": "b.c[0]", "d": "$"}
    assert (body["auth_type"], body["token"]) == ({"api_key_header": "X-API-Key"}, "hush")
    assert (body["name"], body["poll_interval_secs"]) == ("meter", 5.0)
    assert web.asked[-1].headers["authorization"] == "Bearer sesame"
    assert run("add-source", "http://10.0.0.9/x", "plant/m", "--auth", "bearer") == ExitCode.OK
    assert json.loads(web.asked[-1].body)["auth_type"] == "bearer"
    web.on(path, {"error": "not an address that may be asked"}, 403)
    assert run("add-source", "http://169.254.169.254/", "plant/m") == ExitCode.REFUSED


@pytest.mark.parametrize("words", [("plant",), ("plant/m", "nonsense"), ("plant/m", "--auth", "bearer")])
def test_a_source_that_is_none_is_not_sent(web, run, words):
    assert run("add-source", "http://10.0.0.9/x", *words) == ExitCode.USAGE
    assert not web.asked


def test_a_source_is_removed_by_name_or_id(web, run, capsys):
    base = "/api/connector-manager/connectors"
    rows = [
        {"name": "github", "type": "builtin", "status": "stopped"},
        {"name": "meter", "type": "generic", "status": "running", "source_id": "s1"},
        {"name": "twice", "type": "generic", "status": "running", "source_id": "s2"},
        {"name": "twice", "type": "named", "status": "running", "source_id": "s3"},
    ]
    web.on(base, rows)
    web.on(f"{base}/generic/s1", b"")
    web.on(f"{base}/named/s3", b"")
    assert run("remove-source", "meter") == ExitCode.OK
    assert said(capsys) == "meter is asked no more\n"
    assert run("remove-source", "s3", "--json") == ExitCode.OK
    assert [one.path for one in web.asked if one.method == "DELETE"] == [
        f"{base}/generic/s1",
        f"{base}/named/s3",
    ]
    for name in ("twice", "nobody", "github"):
        assert run("remove-source", name) == ExitCode.USAGE


def test_limits(web, run, capsys, monkeypatch):
    web.on("/api/admin/config", {"rate_limit_enabled": True})
    assert run("admin-config") == ExitCode.OK
    assert "rate_limit_enabled" in said(capsys)
    assert run("admin-config", "rate_limit_enabled=false") == ExitCode.REFUSED
    assert "FLUX_ADMIN_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("FLUX_ADMIN_TOKEN", "sesame")
    assert run("admin-config", "rate_limit_enabled") == ExitCode.USAGE
    assert run("admin-config", "rate_limit_enabled=maybe") == ExitCode.USAGE


def test_namespaces(web, run, capsys, monkeypatch):
    monkeypatch.setenv("FLUX_ADMIN_TOKEN", "sesame")
    web.on("/api/namespaces", {"namespaceId": "ns_1", "name": "plant", "token": "t"})
    web.on("/api/namespaces/plant/rotate", {"namespaceId": "ns_1", "name": "plant", "token": "u"})
    web.on("/api/namespaces/plant", {"namespaceId": "ns_1", "name": "plant", "entityCount": 3})
    assert run("namespace", "create", "plant", "--json") == ExitCode.OK
    assert json.loads(said(capsys))["token"] == "t"
    assert json.loads(web.asked[-1].body) == {"name": "plant"}
    assert web.asked[-1].headers["authorization"] == "Bearer sesame"
    assert run("namespace", "rotate", "plant") == ExitCode.OK
    assert run("namespace", "show", "plant") == ExitCode.OK
    assert "authorization" not in web.asked[-1].headers
    with pytest.raises(SystemExit):
        run("namespace", "burn", "plant")


def test_a_backup_appears_whole_or_not_at_all(web, run, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_ADMIN_TOKEN", "sesame")
    file = tmp_path / "world.backup"
    web.on("/api/admin/backup", b"x" * 100_000)
    assert run("backup", str(file), "--json") == ExitCode.OK
    assert json.loads(said(capsys)) == {"file": str(file), "bytes": 100_000}
    assert file.read_bytes() == b"x" * 100_000
    web.on("/api/admin/backup", {"error": "Admin token required"}, 401)
    assert run("backup", str(tmp_path / "other")) == ExitCode.REFUSED
    assert [path.name for path in tmp_path.iterdir()] == ["world.backup"]


def test_a_restore_sends_the_file(web, run, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLUX_ADMIN_TOKEN", "sesame")
    file = tmp_path / "world.backup"
    file.write_bytes(b"y" * 200_000)
    web.on("/api/admin/restore", {"restored": True, "entities": 3})
    assert run("restore", str(file)) == ExitCode.OK
    assert web.asked[-1].body == b"y" * 200_000
    assert web.asked[-1].headers["content-type"] == "application/octet-stream"
    assert run("restore", str(tmp_path / "none")) == ExitCode.FAILED
    web.on("/api/admin/restore", {"error": "this is not a backup of a world"}, 400)
    assert run("restore", str(file)) == ExitCode.USAGE


def test_without_a_box():
    assert main(["world", "list", "--url", "http://127.0.0.1:1"]) == ExitCode.UNREACHABLE
    assert main(["world", "watch", "--url", "http://127.0.0.1:1"]) == ExitCode.UNREACHABLE
    assert main(["world", "list", "--url", "gopher://x"]) == ExitCode.USAGE


def test_the_box_itself_is_asked_with_its_own_token(web, tmp_path, monkeypatch, capsys):
    web.on("/api/namespaces", {"namespaceId": "ns_1", "name": "plant", "token": "t"})
    (tmp_path / "etc").mkdir()
    config = tmp_path / "etc" / "hive.yaml"
    config.write_text(f"world:\n  listen: 127.0.0.1:{web.port}\n")
    assert main(["world", "namespace", "create", "plant"]) == ExitCode.REFUSED
    state = tmp_path / "lib" / "state"
    state.mkdir(parents=True)
    (state / "world-admin.token").write_text("made-at-first-start\n")
    assert main(["world", "namespace", "create", "plant"]) == ExitCode.OK
    assert web.asked[-1].headers["authorization"] == "Bearer made-at-first-start"
    config.write_text(f"world:\n  listen: 127.0.0.1:{web.port}\n  admin_token: of-the-file\n")
    main(["world", "namespace", "create", "plant"])
    assert web.asked[-1].headers["authorization"] == "Bearer of-the-file"
    monkeypatch.setenv("FLUX_ADMIN_TOKEN", "of-the-environment")
    main(["world", "namespace", "create", "plant"])
    assert web.asked[-1].headers["authorization"] == "Bearer of-the-environment"
    monkeypatch.delenv("FLUX_ADMIN_TOKEN")
    monkeypatch.setenv("FLUX_URL", web.base)
    assert main(["world", "namespace", "create", "plant"]) == ExitCode.REFUSED, "a named box is another's"
