"""fluxbee-publish and fluxbee-scaffold: words, output and exit codes that scripts read."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from appliance.cli import main as fluxbee
from appliance.cli.publish import Options, main, parse_options
from appliance.cli.scaffold import main as scaffold
from appliance.supervise.bundle import unpack_bundle
from appliance.supervise.install import install_package
from appliance.supervise.package import validate_package
from appliance.supervise.tree import TreeLimits
from appliance.wire.errors import Invalid
from tests.unit.packages_kit import make_dist, make_package


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hive's root with an empty manifest; no hive answers."""
    make_dist(tmp_path / "root/lib/dist")
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path / "root"))
    for name in ("BASE", "MOTHER_HIVE_ID", "FLUXBEE_PUBLISH_MOTHER_HIVE_ID", "FLUXBEE_HTTP_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLUXBEE_PUBLISH_BASE", "http://127.0.0.1:9")
    return tmp_path / "root"


class Admin:
    """An admin API that answers what it is told."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object]] = {}
        self.seen: list[tuple[str, str, object]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.seen.append((self.command, self.path, json.loads(body) if body else None))
                status, answer = outer.answers.get(self.path, (404, {"error": "not_found"}))
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET  # noqa: N815 -- the name that http.server calls

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"

    def serve(self) -> None:
        self.server.serve_forever(poll_interval=0.01)


@pytest.fixture
def admin() -> Iterator[Admin]:
    api = Admin()
    thread = threading.Thread(target=api.serve)
    thread.start()
    yield api
    api.server.shutdown()
    thread.join()
    api.server.server_close()


def test_the_output_is_what_scripts_grep(root, tmp_path, capsys):
    directory = make_package(tmp_path / "pkg")
    assert main([str(directory)]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(
        r"fluxbee-publish v\S+\nPackage: ai\.greeter\nVersion: 0\.1\.0\nType: full_runtime\n"
        rf"Path: {directory}\nValidation: OK\nInstall: OK \(files=2 bytes=\d+\)\n"
        rf"Installed path: {root}/lib/dist/runtimes/ai\.greeter/0\.1\.0\n"
        rf"Manifest: {root}/lib/dist/runtimes/manifest\.json \(version=([0-9]+)\)\n",
        out,
    )
    assert main([str(directory), "--version", "0.2.0"]) == 0
    assert "Version: 0.2.0" in capsys.readouterr().out
    assert fluxbee(["publish", str(directory)]) == 0
    assert "Install: OK (files=0 bytes=0)" in capsys.readouterr().out


def test_a_dry_run_shows_its_plan_and_touches_nothing(root, tmp_path, capsys):
    directory = make_package(tmp_path / "pkg", name="ai.fr", kind="config_only", runtime_base="ai.greeter")
    before = sorted(root.rglob("*"))
    assert main([str(directory), "--dry-run", "--deploy", "edge-07"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Base: ai.greeter" in lines
    assert lines[6:] == [
        "Validation: OK",
        "Dry-run: completed validation. No filesystem changes applied.",
        "Plan:",
        f"  source_dir: {directory}",
        f"  target_dir: {root}/lib/dist/runtimes/ai.fr/0.1.0",
        f"  manifest_path: {root}/lib/dist/runtimes/manifest.json",
        "  runtime_base: ai.greeter",
        "  deploy_target: edge-07",
    ]
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a", "b"],
        ["a", "--other"],
        ["a", "-x"],
        ["a", "--version"],
        ["a", "--version", "--dry-run"],
        ["a", "--version", ""],
        ["a", "--deploy", "-x"],
        ["a", "--dry-run", "--dry-run"],
        ["a", "--version", "1.0.0", "--version", "1.0.0"],
    ],
)
def test_mistakes_of_usage_end_with_2(root, capsys, words):
    assert main(words) == 2
    told = capsys.readouterr()
    assert re.match(r"Error: .+\n\nusage: fluxbee-publish", told.err)
    assert told.out == ""
    with pytest.raises(Invalid):
        parse_options(words)


def test_words_in_any_order():
    words = ["--deploy", "edge-07", "pkg", "--dry-run", "--version", "1.0.0"]
    assert parse_options(words) == Options(Path("pkg"), "1.0.0", True, "edge-07")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_no_mistake(capsys, flag):
    assert main(["x", "y", flag]) == 0
    assert "usage: fluxbee-publish" in capsys.readouterr().out


def test_failures_end_with_1(root, tmp_path, capsys):
    directory = make_package(tmp_path / "pkg")
    (directory / "bin/start.sh").chmod(0o644)
    assert main([str(directory)]) == 1
    assert "Error: entry point 'bin/start.sh' is not executable" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 1
    assert main([str(directory), "--version", "x"]) == 1
    (directory / "bin/start.sh").chmod(0o755)
    (root / "lib/dist/runtimes/manifest.json").unlink()
    capsys.readouterr()
    assert main([str(directory)]) == 1
    assert "initialize dist first" in capsys.readouterr().err
    assert not (root / "lib/dist/runtimes/ai.greeter").exists()


def versions(version: int, digest: str) -> dict[str, object]:
    runtimes = {"manifest_version": version, "manifest_hash": digest}
    return {
        "status": "ok",
        "action": "get_versions",
        "payload": {"status": "ok", "hive": {"runtimes": runtimes}},
    }


def envelope(status: str, code: str | None = None) -> dict[str, object]:
    return {"status": status, "action": "x", "payload": {}, "error_code": code, "error_detail": None}


def test_a_deployment_asks_three_times(root, tmp_path, capsys, admin, monkeypatch):
    monkeypatch.setenv("FLUXBEE_PUBLISH_BASE", admin.base)
    monkeypatch.setenv("MOTHER_HIVE_ID", "mother1")
    admin.answers = {
        "/hives/mother1/versions": (200, versions(77, "abc")),
        "/hives/edge-07/sync-hint": (200, envelope("ok")),
        "/hives/edge-07/update": (202, envelope("sync_pending")),
    }
    assert main([str(make_package(tmp_path / "pkg")), "--deploy", "edge-07"]) == 0
    out = capsys.readouterr().out
    assert out.endswith(
        "Deploy: edge-07\n  sync_hint_status=ok update_status=sync_pending update_error_code=\n"
    )
    assert [(method, path) for method, path, _ in admin.seen] == [
        ("GET", "/hives/mother1/versions"),
        ("POST", "/hives/edge-07/sync-hint"),
        ("POST", "/hives/edge-07/update"),
    ]
    assert admin.seen[1][2] == {
        "channel": "dist",
        "folder_id": "fluxbee-dist",
        "wait_for_idle": True,
        "timeout_ms": 30000,
    }
    assert admin.seen[2][2] == {"category": "runtime", "manifest_version": 77, "manifest_hash": "abc"}


def test_errors_that_a_deployment_tells_do_not_change_the_exit_code(
    root, tmp_path, capsys, admin, monkeypatch
):
    monkeypatch.setenv("FLUXBEE_PUBLISH_BASE", admin.base)
    admin.answers = {
        "/hives/motherbee/versions": (200, {"something": "else"}),
        "/hives/edge-07/sync-hint": (200, {"odd": 1}),
        "/hives/edge-07/update": (409, envelope("error", "VERSION_MISMATCH")),
    }
    assert main([str(make_package(tmp_path / "pkg")), "--deploy", "edge-07"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.search(r"sync_hint_status=([^ ]*)", line)[1] == "error"
    assert re.search(r"update_status=([^ ]*)", line)[1] == "error"
    assert re.search(r"update_error_code=(.*)$", line)[1] == "VERSION_MISMATCH"
    wanted = admin.seen[2][2]
    assert wanted["manifest_version"] == 0
    assert len(wanted["manifest_hash"]) == 64


def test_versions_that_are_refused_are_fatal(root, tmp_path, capsys, admin, monkeypatch):
    monkeypatch.setenv("FLUXBEE_PUBLISH_BASE", admin.base)
    admin.answers = {"/hives/motherbee/versions": (404, envelope("error", "NOT_FOUND"))}
    assert main([str(make_package(tmp_path / "pkg")), "--deploy", "edge-07"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().err
    monkeypatch.setenv("FLUXBEE_PUBLISH_BASE", "http://127.0.0.1:9")
    assert main([str(tmp_path / "pkg"), "--deploy", "edge-07"]) == 1


def test_without_a_root_the_hive_says_where_its_things_are(root, tmp_path, capsys, admin, monkeypatch):
    monkeypatch.delenv("FLUXBEE_ROOT")
    monkeypatch.delenv("FLUXBEE_PUBLISH_BASE")
    monkeypatch.setenv("BASE", admin.base)
    place = {"status": "ok", "path": str(root / "lib")}
    admin.answers = {"/config/storage": (200, {**envelope("ok"), "payload": place})}
    assert main([str(make_package(tmp_path / "pkg"))]) == 0
    assert f"Installed path: {root}/lib/dist/runtimes" in capsys.readouterr().out
    admin.answers = {}
    assert main([str(tmp_path / "pkg"), "--dry-run"]) == 0
    assert "/var/lib/fluxbee/dist/runtimes" in capsys.readouterr().out


def test_progress_is_for_terminals_only(root, tmp_path, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main([str(make_package(tmp_path / "pkg"))]) == 0
    assert "100 %" in terminal.getvalue()
    assert "%" not in capsys.readouterr().out


# --- scaffold ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more", "files"),
    [
        ("full_runtime", [], ["bin/start.sh"]),
        ("config_only", ["--base", "ai.base"], []),
        ("workflow", ["--base", "wf.engine"], ["flow/definition.json"]),
    ],
)
def test_a_skeleton_is_a_package_that_can_be_published(root, tmp_path, capsys, kind, more, files):
    directory = tmp_path / "new"
    assert scaffold(["--name", "ai.fresh", "--type", kind, *more, str(directory)]) == 0
    package = validate_package(directory)
    assert (package.name, package.version, package.package_type) == ("ai.fresh", "0.1.0", kind)
    present = {entry.path for entry in package.entries}
    assert {"package.json", "config/default-config.json", *files} <= present
    assert scaffold(["pack", str(directory)]) == 0
    bundle = tmp_path / "ai.fresh-0.1.0.zip"
    assert f"Packed: {bundle}" in capsys.readouterr().out
    (tmp_path / "s").mkdir()
    again = validate_package(unpack_bundle(bundle, tmp_path / "s", TreeLimits()))
    assert {entry.path for entry in again.entries} == present
    assert install_package(again, root / "lib/dist", now_ms=5).copied_files == package.files
    with zipfile.ZipFile(bundle) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"ai.fresh"}


def test_packing_is_repeatable_and_takes_a_program(tmp_path, capsys):
    directory = make_package(tmp_path / "pkg")
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    for number in (1, 2):
        words = [
            "pack",
            str(directory),
            "--binary",
            str(program),
            "--output",
            str(tmp_path / f"{number}.zip"),
        ]
        assert scaffold(words) == 0
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    (tmp_path / "s").mkdir()
    unpacked = unpack_bundle(tmp_path / "1.zip", tmp_path / "s", TreeLimits())
    assert (unpacked / "bin/node").read_bytes() == b"\x7fELF"
    assert (unpacked / "bin/node").stat().st_mode & 0o111
    assert scaffold(["pack", str(directory), "--binary", str(tmp_path / "none")]) != 0
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    "words",
    [
        ["new", "--name", "ai-x", "--type", "full_runtime"],
        ["new", "--name", "ai.x", "--type", "config_only"],
        ["new", "--name", "ai.x", "--type", "full_runtime", "--base", "ai.y"],
        ["new", "--name", "ai.x", "--type", "full_runtime", "--version", "1"],
    ],
)
def test_values_that_publish_would_refuse_end_with_2(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    assert scaffold(words) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [[], ["new"], ["--name", "x"], ["other"], ["new", "--name", "x", "--type", "y"]]
)
def test_mistakes_of_scaffold_end_with_2(capsys, words):
    with pytest.raises(SystemExit) as caught:
        scaffold(words)
    assert caught.value.code == 2


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "x").write_text("mine")
    assert scaffold(["new", "--name", "ai.x", "--type", "full_runtime", str(tmp_path)]) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert fluxbee(["scaffold", "new", "--name", "ai.x", "--type", "full_runtime", str(tmp_path / "n")]) == 0
