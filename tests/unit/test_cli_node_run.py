"""`fluxbee node run`: what a script sees, how it ends, what is said when it cannot run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.cli.output import ExitCode

TALKS = """
import os, sys
from beside import WORD
import appliance.sdk
print(__name__, WORD, sys.argv[1:], os.environ.get("FLUXBEE_NODE_NAME"), os.environ.get("FLUXBEE_ROOT"))
"""


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLUXBEE_NODE_NAME", "FLUXBEE_ROOT"):
        monkeypatch.setenv(name, "")


def written(folder: Path, text: str) -> str:
    script = folder / "main.py"
    script.write_text(text)
    return str(script)


def test_a_script_sees_what_python_would_show_it(tmp_path, capsys):
    (tmp_path / "beside.py").write_text("WORD = 'found'\n")
    script = written(tmp_path, TALKS)
    words = ["node", "run", "--name", "AI.x", "--root", str(tmp_path), script, "--help", "a b"]
    assert main(words) == ExitCode.OK
    shown = capsys.readouterr().out.strip()
    assert shown == f"__main__ found ['--help', 'a b'] AI.x {tmp_path}"
    assert not (tmp_path / "__pycache__").exists(), "a package stays as it was published"


@pytest.mark.parametrize(
    ("text", "code"),
    [("", 0), ("raise SystemExit", 0), ("raise SystemExit(7)", 7), ("raise SystemExit('no')", 1)],
)
def test_the_exit_code_is_the_scripts(tmp_path, capsys, text, code):
    assert main(["node", "run", written(tmp_path, text)]) == code
    assert capsys.readouterr().err == ("no\n" if "no" in text else "")


def test_an_exception_is_shown_from_the_script_on(tmp_path, capsys):
    assert main(["node", "run", written(tmp_path, "def f():\n    1 / 0\nf()\n")]) == ExitCode.FAILED
    told = capsys.readouterr().err
    assert told.count("File ") == 2
    assert "ZeroDivisionError" in told


def test_an_error_of_the_tree_is_told_with_its_remedy(tmp_path, capsys):
    text = "import anyio\nfrom appliance.sdk import run_node\nanyio.run(run_node, 'AI.x', None)\n"
    assert main(["node", "run", "--root", str(tmp_path), written(tmp_path, text)]) == ExitCode.UNREACHABLE
    told = capsys.readouterr().err
    assert "remedy:" in told
    assert "Traceback" not in told


def test_no_python_is_told_with_its_line(tmp_path, capsys):
    assert main(["node", "run", written(tmp_path, "x = 1\ny = = 2\n")]) == ExitCode.USAGE
    told = capsys.readouterr().err
    assert "main.py, line 2" in told
    assert "y = = 2" in told
    assert "Traceback" not in told


def test_a_missing_file_and_a_wrong_name(tmp_path, capsys):
    assert main(["node", "run", str(tmp_path / "none.py")]) == ExitCode.NOT_FOUND
    assert main(["node", "run", "--name", "nothing", written(tmp_path, "")]) == ExitCode.USAGE
    assert "none.py" in capsys.readouterr().err


ENDLESS = {
    "plain": "import time\nprint('on', flush=True)\ntime.sleep(60)\n",
    "trio": "import trio\nasync def f():\n    print('on', flush=True)\n    await trio.sleep(60)\n"
    "trio.run(f)\n",
    "asyncio": "import asyncio\nasync def f():\n    print('on', flush=True)\n    await asyncio.sleep(60)\n"
    "asyncio.run(f())\n",
}


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("kind", sorted(ENDLESS))
def test_sigterm_ends_any_script_cleanly(tmp_path, kind, ignored):
    script = written(tmp_path, ENDLESS[kind])
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", "node", "run", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    process.terminate()
    _, told = process.communicate(timeout=20)
    assert process.returncode == 0, told.decode()
    assert told == b""
