"""Tables, fields, JSON, colours and exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest

from appliance.cli.output import (
    ExitCode,
    clean,
    exit_codes_markdown,
    paint,
    print_fields,
    print_json,
    print_notice,
    print_table,
)

REPOSITORY = Path(__file__).parents[2]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_stored_page_is_up_to_date() -> None:
    stored = (REPOSITORY / "docs/reference/exit-codes.md").read_text()
    assert stored == exit_codes_markdown(), "write exit_codes_markdown() of appliance/cli/output.py there"


def test_every_code_is_explained_once() -> None:
    assert len({code.value for code in ExitCode}) == len(ExitCode) == 11
    assert all(code.meaning.endswith(".") for code in ExitCode)
    assert ExitCode(3) is ExitCode.MISCONFIGURED


def table(stream: io.StringIO) -> list[str]:
    print_table(("NAME", "COUNT"), [("AI.x", 3), ("蜂", None), ("e\u0301", True), ("a\x1bb", "\n")], stream)
    return stream.getvalue().splitlines()


def test_columns_line_up() -> None:
    assert table(io.StringIO()) == [
        "NAME    COUNT",
        "AI.x    3",
        "蜂",
        "e\u0301       yes",
        "a\\x1bb  \\x0a",
    ]


def test_a_table_without_rows_shows_its_headers() -> None:
    stream = io.StringIO()
    print_table(("A", "B"), [], stream)
    assert stream.getvalue() == "A  B\n"


def test_a_terminal_cuts_long_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "9")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    print_table(("A", "B"), [("1", "蜂" * 9)], stream)
    assert stream.getvalue().splitlines()[1] == "1  蜂蜂…"


def test_a_row_of_another_length_is_a_defect() -> None:
    with pytest.raises(ValueError, match="zip"):
        print_table(("A",), [("1", "2")], io.StringIO())


def test_colour_only_where_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", Terminal()) == "\033[31mx\033[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "red", Terminal()) == "x"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (True, "yes"), (False, "no"), (7, "7"), ("ä", "ä"), ("\x07", "\\x07")]
)
def test_clean(value: object, text: str) -> None:
    assert clean(value) == text


def test_fields() -> None:
    stream = io.StringIO()
    print_fields([("name", "x"), ("gone", None), ("empty", ""), ("long name", 0)], stream)
    assert stream.getvalue() == "  name       x\n  long name  0\n"


class Row(msgspec.Struct):
    name: str
    parts: tuple[int, ...]


def test_json_knows_structs() -> None:
    stream = io.StringIO()
    print_json([Row(name="ä", parts=(1, 2))], stream)
    assert json.loads(stream.getvalue()) == [{"name": "ä", "parts": [1, 2]}]
    assert stream.getvalue().endswith("]\n")


def test_notices_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_notice("mind\x07")
    assert capsys.readouterr() == ("", "mind\\x07\n")
