"""The frame of the command line: help, usage, errors and exit codes, in this process and in real ones."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import __version__, cli
from appliance.cli import build_parser, frame, main
from appliance.cli.output import ExitCode
from appliance.wire.errors import (
    Busy,
    Conflict,
    Damaged,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
    Unreachable,
)

FLUXBEE = (sys.executable, "-m", "appliance")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of the machine that runs the tests."""
    for name in list(os.environ):
        if name.startswith(("FLUX", "JSR_", "ORCH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Makes ``fluxbee try [--json]`` run what the test gives."""

    def install(handler: Callable[[argparse.Namespace], int]) -> None:
        def build() -> frame.Parser:
            parser = frame.Parser(prog="fluxbee")
            verbs = parser.add_subparsers(dest="verb")
            added = frame.add_verb(verbs, "try", handler, summary="try it", examples=[("fluxbee try", "try")])
            frame.add_json_argument(added)
            return parser

        monkeypatch.setattr(cli, "build_parser", build)

    return install


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


# --- help and usage ---------------------------------------------------------------------------------


def test_every_help_has_examples_that_parse() -> None:
    top = build_parser()
    for parser in parsers(top):
        text = parser.format_help()
        assert "\nexamples:\n  " in text, parser.prog
        assert all(action.help for action in parser._actions if action.dest != "verb" and not action.choices)


def test_every_verb_has_a_handler() -> None:
    for parser in parsers(build_parser()):
        if not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
            assert callable(parser.get_default("handler")), parser.prog


def test_no_verb_is_a_mistake_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ExitCode.USAGE
    assert "verbs:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message", "remedy"),
    [
        (
            ["confg"],
            "there is no verb 'confg'",
            "Did you mean `config`? `fluxbee --help` shows what there is.",
        ),
        (["config", "chek"], "there is no verb 'chek'", "Did you mean `check`?"),
        (["config", "check", "--jsn"], "unrecognized arguments: --jsn", "`fluxbee --help`"),
        (["config", "check", "--js"], "unrecognized arguments: --js", "`fluxbee --help`"),
        (["config"], "the following arguments are required: VERB", "`fluxbee config --help`"),
        (["completion", "fish"], "argument shell: invalid choice: 'fish'", "`fluxbee completion --help`"),
        (["\x1b[2J"], "there is no verb '\\x1b[2J'", "`fluxbee --help`"),
    ],
)
def test_mistakes_in_the_command_line(
    argv: list[str], message: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(argv)
    told = capsys.readouterr()
    assert left.value.code == ExitCode.USAGE
    assert told.out == ""
    first, second = told.err.splitlines()
    assert first.startswith(f"fluxbee: {message}")
    assert second.startswith("  remedy: ")
    assert remedy in second


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"fluxbee {__version__}\n"
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"fluxbee {__version__}\n  python")
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == __version__


# --- errors -----------------------------------------------------------------------------------------

ERRORS = [
    (Refused("no"), 5),
    (Busy("later"), 7),
    (Unreachable("away"), 4),
    (Unavailable("down"), 4),
    (NotFound("what?"), 6),
    (Conflict("again"), 8),
    (Invalid("wrong"), 2),
    (Damaged("torn"), 1),
    (TimeoutError(), 7),
    (FileNotFoundError(2, "No such file", "x"), 1),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("grouped", [False, True])
def test_errors_of_the_tree(
    error: Exception,
    code: int,
    grouped: bool,
    verb: Callable[[Callable[[argparse.Namespace], int]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise ExceptionGroup("nursery", [ExceptionGroup("inner", [error])]) if grouped else error

    verb(fail)
    assert main(["try"]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("fluxbee: ")
    assert ("  remedy: " in told.err) == hasattr(error, "remedy")
    assert "Traceback" not in told.err


def test_errors_for_programs(
    verb: Callable[[Callable[[argparse.Namespace], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise NotFound("no node AI.x", code="NODE_NOT_FOUND", field="name", remedy="Look again.")

    verb(fail)
    assert main(["try", "--json"]) == ExitCode.NOT_FOUND
    assert json.loads(capsys.readouterr().err) == {
        "code": "NODE_NOT_FOUND",
        "message": "no node AI.x",
        "remedy": "Look again.",
        "field": "name",
    }


def test_a_name_from_outside_cannot_drive_the_terminal(
    verb: Callable[[Callable[[argparse.Namespace], int]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise NotFound("no node \x1b]0;owned\x07")

    verb(fail)
    main(["try"])
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("grouped", [False, True])
def test_ctrl_c_is_silent(
    grouped: bool,
    verb: Callable[[Callable[[argparse.Namespace], int]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(_: argparse.Namespace) -> int:
        if grouped:
            raise BaseExceptionGroup("nursery", [NotFound("x"), KeyboardInterrupt()])
        raise KeyboardInterrupt

    verb(interrupt)
    assert main(["try"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("others", [[], [NotFound("x")]])
def test_a_defect_keeps_its_traceback(
    others: list[Exception], verb: Callable[[Callable[[argparse.Namespace], int]], None]
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise ExceptionGroup("nursery", [ZeroDivisionError(), *others])

    verb(fail)
    with pytest.raises(ExceptionGroup):
        main(["try"])


# --- real processes ---------------------------------------------------------------------------------


@pytest.mark.process
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from appliance.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'trio', 'lmdb', 'yaml', 'zmq', 'starlette', 'wasmtime', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.process
def test_a_real_process_reports_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "hive.yaml"
    file.write_text("wan: {lisen: x}\n")
    done = subprocess.run(
        [*FLUXBEE, "config", "check", "--config", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"fluxbee: {file}:1: wan.lisen: unknown key; the nearest key is wan.listen",
        "  remedy: Correct the named key; `fluxbee config check` verifies the file.",
    ]


@pytest.mark.process
def test_a_reader_that_leaves_early_ends_it_cleanly() -> None:
    script = f"set -o pipefail; {' '.join(FLUXBEE)} config explain | head -n 1; exit ${{PIPESTATUS[0]}}"
    # One page holds less than the table, so that the last write meets a closed pipe.
    code = (
        "import os, sys\n"
        "from appliance.cli import main\n"
        "r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)\n"
        "sys.exit(main(['config', 'explain']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (141, "")
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert shell.returncode in (0, 141)
    assert shell.stderr == ""
    assert shell.stdout.startswith("KEY")


@pytest.mark.process
def test_ctrl_c_ends_a_real_process(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [*FLUXBEE, "config", "check", "--config", str(fifo)], stderr=subprocess.PIPE, text=True
    )
    writer = os.open(fifo, os.O_WRONLY)  # returns once the process is about to read
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    os.close(writer)
    assert (process.returncode, told) == (130, "")
