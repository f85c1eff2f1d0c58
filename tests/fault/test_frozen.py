"""The program as it ships: frozen, away from its sources, without Python on its path.

PyInstaller leaves out what no import shows, and the keeper forks inside a frozen program. So each form is
built (when its sources changed), asked whether every library works, and driven through the main path.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0

pytestmark = [pytest.mark.frozen, pytest.mark.slow, pytest.mark.process]


def load_freezer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("freeze", ROOT / "build" / "freeze.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["onedir", "onefile"])
def program(request) -> Path:
    return load_freezer().freeze(request.param, ROOT / "dist", ROOT / "work")


class Box:
    """A folder with a hive's configuration, and an environment in which nothing of the build can help."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder
        self.root = folder / "r"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(self.temporary), "LANG": "C.UTF-8"}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.admin = f"127.0.0.1:{free.getsockname()[1]}"
        self.config = folder / "hive.yaml"
        self.config.write_text(
            f"role: motherbee\nroot: {self.root}\nplanes: apart\nadmin:\n  listen: {self.admin}\n"
            "world:\n  listen: 127.0.0.1:0\n"
            'security:\n  admin_nodes: ["*"]\n'
        )
        self.started: list[subprocess.Popen[str]] = []

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [self.program, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def stop(self, process: subprocess.Popen[str]) -> str:
        """SIGTERM, as a service manager sends it; the exit code tells whether something had to be killed."""
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=DEADLINE_S)[0]
        assert process.returncode == 0, output
        return output


@pytest.fixture
def box(program, hive_folder) -> Iterator[Box]:
    box = Box(program, hive_folder)
    yield box
    for process in box.started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def eventually(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=DEADLINE_S) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def descendants(pid: int) -> set[int]:
    """The processes below ``pid`` now, itself included."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return below


def test_every_library_is_inside_and_works(box):
    result = box.run("selfcheck", "--json")
    told = json.loads(result.stdout)
    assert told["frozen"]
    assert {one["name"]: one["error"] for one in told["libraries"] if one["error"]} == {}
    assert all(one["version"] != "-" for one in told["libraries"]), "licences and versions ship with the code"
    assert result.returncode == 0


def test_no_development_package_is_inside(program):
    from PyInstaller.archive.readers import CArchiveReader

    archive = CArchiveReader(str(program))
    inside = {module.partition(".")[0] for module in archive.open_embedded_archive("PYZ.pyz").toc}
    assert "trio" in inside
    unwanted = {
        "_pytest",
        "hypothesis",
        "mypy",
        "pip",
        "pytest",
        "setuptools",
        "tkinter",
        "unittest",
        "xdist",
    }
    assert inside & unwanted == set()


def test_a_hive_carries_a_message_and_stops(box):
    hive = box.start("run", "--config", str(box.config))
    eventually("the admin door answers", lambda: hive.poll() is not None or answers(box.admin))
    assert hive.poll() is None, hive.communicate()[0]

    node = box.start("node", "echo", "AI.echo", "--root", str(box.root))
    assert node.stdout is not None
    assert "AI.echo@motherbee" in node.stdout.readline()

    sent = box.run("send", "AI.echo@motherbee", "hola", "--root", str(box.root))
    assert (sent.returncode, sent.stdout) == (0, "hola\n"), sent.stderr
    status = box.run("status", "--json", "--root", str(box.root))
    assert status.returncode == 0, status.stdout + status.stderr
    assert "AI.echo@motherbee" in [one["name"] for one in json.loads(status.stdout)["nodes"]]

    node.send_signal(signal.SIGTERM)
    node.communicate(timeout=DEADLINE_S)
    running = descendants(hive.pid)
    assert len(running) > 1, "the planes are processes below the keeper"
    box.stop(hive)
    left = [pid for pid in running if Path(f"/proc/{pid}").exists()]
    assert left == [], "nothing of the hive is left"
    assert list(box.temporary.glob("_MEI*")) == [], "what the one file unpacked is gone"


def test_a_hive_runs_a_published_node_without_python(box):
    hive = box.start("run", "--config", str(box.config))
    eventually("the admin door answers", lambda: hive.poll() is not None or answers(box.admin))
    assert hive.poll() is None, hive.communicate()[0]
    box.environment |= {"BASE": f"http://{box.admin}", "FLUXBEE_ROOT": str(box.root)}
    publisher = box.program.with_name("fluxbee-publish")
    told = subprocess.run(
        [publisher, ROOT / "docs" / "examples" / "ai-echo", "--deploy", "motherbee"],
        cwd=box.folder,
        env=box.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    tenant = "tnt:6f1c2d7e-0b52-4a8e-9a53-1f1f0f6f2b11"
    spawned = box.run("node", "spawn", "AI.echo", "--tenant", tenant, "--set", "prefix=ice ", "--wait")
    assert spawned.returncode == 0, spawned.stdout + spawned.stderr
    sent = box.run("send", "AI.echo@motherbee", "hola")
    assert (sent.returncode, sent.stdout) == (0, "ice hola\n"), sent.stderr
    running = descendants(hive.pid)
    box.stop(hive)
    assert [pid for pid in running if Path(f"/proc/{pid}").exists()] == []


def test_a_second_start_goes_on_from_the_same_files(box):
    for _ in range(2):
        hive = box.start("run", "--config", str(box.config))
        eventually(
            "the admin door answers", lambda started=hive: started.poll() is not None or answers(box.admin)
        )
        assert hive.poll() is None, hive.communicate()[0]
        box.stop(hive)
