"""The tutorial as it stands: every command runs, every expected line appears, every program is its own text.

The page's code blocks say what they are: `sh` runs to its end, `sh background` stays, `fails=N` names an exit
code, `python file=…` is saved, a `text` block is what the command before it prints (`…` is any text), and a
`chat` block is typed and seen in the browser. Only two things differ from a reader's shell: ports are free
ones, and `make run` does not install anything.
"""

from __future__ import annotations

import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from appliance.testing.hive import free_port

from ..chromium import needs_chromium, opened

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
DEADLINE_S = 30.0
UNREACHABLE = 4
PROGRAM = re.compile(r"^((?:\w+=\S+ )*)(fluxbee|fluxbee-publish|python) ")
BLOCK = re.compile(r"^```(?P<kind>\w+)(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.slow, pytest.mark.process]


PORTS = {name: str(free_port()) for name in ("8080", "3000", "8090")}
"""The page's ports, and what they are in the test."""


def free_ports() -> str:
    return f"admin:\n  listen: 127.0.0.1:{PORTS['8080']}\nworld:\n  listen: 127.0.0.1:{PORTS['3000']}\n"


@dataclass
class Block:
    kind: str
    info: str
    body: str

    @property
    def commands(self) -> list[str]:
        """What is typed; activating the environment is what `environment` does for the test."""
        return [line for line in self.body.splitlines() if line and line != ". .venv/bin/activate"]

    @property
    def exit_code(self) -> int:
        found = re.search(r"fails=(\d+)", self.info)
        return int(found[1]) if found else 0


def read_blocks() -> list[Block]:
    return [Block(m["kind"], m["info"], m["body"]) for m in BLOCK.finditer(TUTORIAL.read_text())]


class Shell:
    """A folder that looks like the repository, and the processes that the page leaves running in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[bytes]] = []
        programs = folder / "bin"
        programs.mkdir()
        for name, words in (
            ("fluxbee", "-m appliance"),
            ("fluxbee-publish", "-m appliance publish"),
            ("python", ""),
        ):
            script = programs / name
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
            script.chmod(0o755)
        for name in ("tests", "docs"):
            (folder / name).symlink_to(ROOT / name)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("FLUXBEE_")},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "FLUXBEE_BASE": f"http://127.0.0.1:{PORTS['8080']}",
            "BASE": f"http://127.0.0.1:{PORTS['8080']}",
            "FLUX_URL": f"http://127.0.0.1:{PORTS['3000']}",
        }

    def _popen(self, command: str) -> subprocess.Popen[bytes]:
        command = "exec fluxbee run --config var/etc/hive.yaml" if command == "make run" else command
        if "spawn IO.webchat" in command:
            command += f" --set listen=127.0.0.1:{PORTS['8090']}"
        return subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                PROGRAM.sub(r"exec env \1\2 ", command),
            ],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, command: str, exit_code: int | None) -> str:
        """Run to the end; a node that is still on its way gets until the deadline. None takes any code."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            process = self._popen(command)
            output = process.communicate(timeout=DEADLINE_S)[0].decode()
            soon = process.returncode == UNREACHABLE or command == "fluxbee status"  # it is still starting
            if process.returncode == exit_code or not soon or time.monotonic() > deadline:
                break
        assert exit_code in (None, process.returncode), f"{command}\n{output}"
        return output

    def start(self, command: str, *, wait: bool) -> None:
        """Leave it running; ``wait`` until it has said something."""
        process = self._popen(command)
        self.running.append(process)
        if wait:
            assert process.stdout is not None
            with selectors.DefaultSelector() as ready:
                ready.register(process.stdout, selectors.EVENT_READ)
                assert ready.select(DEADLINE_S), f"{command} said nothing"
            assert process.poll() is None, f"{command}\n{process.stdout.read().decode()}"

    def stop(self) -> dict[str, tuple[int, str]]:
        """Ctrl-C for the youngest first, as the page ends; exit code and output by command."""
        ended = {}
        for process in reversed(self.running):
            process.send_signal(signal.SIGINT)
            try:
                output = process.communicate(timeout=DEADLINE_S)[0].decode()
            except subprocess.TimeoutExpired:
                process.kill()
                output = process.communicate()[0].decode()
            ended[str(process.args[-1])] = (process.returncode, output)  # type: ignore[index]
        self.running.clear()
        return ended


def assert_shown(expected: str, output: str) -> None:
    """Every expected line appears, in that order; `…` stands for any text, and alone for any lines."""
    position = 0
    lines = output.splitlines()
    for wanted in filter(lambda line: line != "…", expected.splitlines()):
        pattern = re.compile(re.escape(wanted).replace("…", ".*").replace(r"\ ", r"\s+"))
        found = next((n for n in range(position, len(lines)) if pattern.fullmatch(lines[n].rstrip())), None)
        assert found is not None, f"{wanted!r} is not in\n{output}"
        position = found + 1


@pytest.fixture
def shell(hive_folder):
    shell = Shell(hive_folder)
    config = shell.folder / "var" / "etc" / "hive.yaml"
    config.parent.mkdir(parents=True)
    text = (ROOT / "config" / "development.yaml").read_text()
    config.write_text(re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", text) + free_ports())
    yield shell
    shell.stop()


class Chat:
    """The chat page, opened when it is first needed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._page: Page | None = None

    def talk(self, lines: list[str]) -> None:
        """Type what `you` say; see what the others say, and `trouble` as the page tells it."""
        if self._page is None:
            self._page = self._stack.enter_context(opened(f"http://127.0.0.1:{PORTS['8090']}"))
        for line in lines:
            who, _, text = line.partition(": ")
            if who == "you":
                box = self._page.get_by_role("textbox")
                box.fill(text)
                box.press("Enter")
            else:
                expect(self._page.locator("body")).to_contain_text(text, timeout=DEADLINE_S * 1000)

    def close(self) -> None:
        self._stack.close()


@needs_chromium
def test_every_block_of_the_tutorial_is_true(shell):
    chat = Chat()
    output = ""
    for block in read_blocks():
        if block.kind == "python":
            name = block.info.partition("file=")[2].strip()
            (shell.folder / name).write_text(block.body)
            program = [line for line in block.body.splitlines() if line.strip()]
            assert len(program) <= 15, "a first node fits on a postcard"
        elif block.kind == "chat":
            chat.talk(block.body.splitlines())
        elif block.kind == "text":
            assert_shown(block.body, output)
        elif "background" in block.info:
            (command,) = block.commands
            shell.start(command, wait="quiet" not in block.info)
        else:
            output = "".join(shell.run(command, block.exit_code) for command in block.commands)
    chat.close()
    ended = shell.stop()
    tapped = next(text for command, (_, text) in ended.items() if "fluxbee tap" in command)
    assert "→" in tapped
    assert tapped.count("Grace") == 2, "the tap shows the question and the reply"
    hive = next(code for command, (code, _) in ended.items() if "hive.yaml" in command)
    assert hive == 0, "Ctrl-C is a clean stop"
    shell.start("make run", wait=True)
    deadline = time.monotonic() + DEADLINE_S
    while "RUNNING" not in (told := shell.run("fluxbee node status AI.echo.web", None)):
        assert time.monotonic() < deadline, told
    assert '"bee says: "' in shell.run("fluxbee node config get AI.echo.web", 0)


def test_the_page_names_only_files_that_exist():
    for block in read_blocks():
        for path in re.findall(r"tests/\S+\.py", block.body):
            assert (ROOT / path).is_file()
