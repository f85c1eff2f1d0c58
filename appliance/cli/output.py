"""What the command line prints: tables for people, JSON for programs, errors with a remedy, exit codes.

Results go to stdout, everything else to stderr. Colour appears only on a terminal and without ``NO_COLOR``.
What comes from outside (names of nodes, payloads) is shown with its control characters escaped.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import TextIO

from appliance.keeper.numbers import EX_CLEAN, EX_CONFIG, EX_SOFTWARE, EX_UNCLEAN
from appliance.wire import errors

__all__ = [
    "ExitCode",
    "clean",
    "exit_code_for",
    "exit_codes_markdown",
    "paint",
    "print_failure",
    "print_fields",
    "print_json",
    "print_notice",
    "print_table",
]


class ExitCode(IntEnum):
    """How ``fluxbee`` ends; the one home of these numbers."""

    def __new__(cls, value: int, meaning: str = "") -> ExitCode:
        """A number with its ``meaning`` for the reference page."""
        code = int.__new__(cls, value)
        code._value_ = value
        code._meaning = meaning  # type: ignore[attr-defined]
        return code

    OK = 0, "Done."
    FAILED = 1, "It did not work, for a reason that none of the other codes names."
    USAGE = 2, "The command line, or an input that it names, is wrong; nothing was done."
    MISCONFIGURED = 3, "`hive.yaml` or a variable is wrong; the message names file, line and key."
    UNREACHABLE = 4, "The appliance, a service or the addressed node is not running or not reachable."
    REFUSED = 5, "Policy or permission says no."
    NOT_FOUND = 6, "The named thing does not exist."
    BUSY = 7, "A limit or a deadline was reached; the same command may work later."
    CONFLICT = 8, "The thing exists already, or changed meanwhile."
    INTERRUPTED = 130, "Stopped by Ctrl-C."
    PIPE_CLOSED = 141, "Whoever read the output went away, as `head` does."

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return str(self._meaning)  # type: ignore[attr-defined]


_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (errors.Misconfigured, ExitCode.MISCONFIGURED),
    (errors.Unreachable, ExitCode.UNREACHABLE),
    (errors.Unavailable, ExitCode.UNREACHABLE),
    (errors.Refused, ExitCode.REFUSED),
    (errors.NotFound, ExitCode.NOT_FOUND),
    (errors.Busy, ExitCode.BUSY),
    (TimeoutError, ExitCode.BUSY),
    (errors.Conflict, ExitCode.CONFLICT),
    (errors.Invalid, ExitCode.USAGE),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
    (BrokenPipeError, ExitCode.PIPE_CLOSED),
)


def exit_code_for(error: BaseException) -> ExitCode:
    """The exit code that tells ``error``."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


_RUN_CODES = (
    (EX_CLEAN, "Stopped as it was told, within 5 seconds; everything acknowledged is on disk."),
    (EX_SOFTWARE, "Every plane failed too often and rests: there is nothing left to run."),
    (EX_UNCLEAN, "Stopped, but a plane had to be killed or failed on the way."),
    (
        EX_CONFIG,
        "Every plane refuses the configuration or what it finds on disk; the log says which key or file.",
    ),
)


def exit_codes_markdown() -> str:
    """The reference page ``docs/reference/exit-codes.md``."""
    lines = [
        "# Exit codes of fluxbee",
        "",
        "<!-- Made from appliance/cli/output.py; a test keeps it up to date. -->",
        "",
        "Errors go to stderr as `fluxbee: <what happened>` and `  remedy: <what to do>`; with `--json` as",
        "one object with `code`, `message`, `remedy` and `field`.",
        "",
        "| Code | Name | Meaning |",
        "|---|---|---|",
        *(f"| {code.value} | {code.name} | {code.meaning} |" for code in ExitCode),
        "",
        "`fluxbee run` ends with the codes of its keeper (those above 64 are from sysexits.h):",
        "",
        "| Code | Meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in _RUN_CODES),
    ]
    return "\n".join(lines) + "\n"


_COLOURS = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}


def paint(text: str, colour: str, stream: TextIO) -> str:
    """``text`` in a colour (red, green, yellow, dim, bold) where ``stream`` shows colours, else as it is."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\033[{_COLOURS[colour]}m{text}\033[0m"


def clean(value: object) -> str:
    """A value as text that cannot drive a terminal: nothing for ``None``, control characters escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], stream: TextIO | None = None
) -> None:
    """Print columns as wide as their widest cell; on a terminal the last one is cut at its edge.

    Args:
        headers: one word per column.
        rows: as many cells each.
        stream: where to; stdout by default.
    """
    out = stream or sys.stdout
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(headers, *cells, strict=True)]
    edge = shutil.get_terminal_size().columns if out.isatty() else None
    for number, row in enumerate([list(headers), *cells]):
        padded = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        line = "  ".join(padded).rstrip()
        if edge is not None:
            line = _fit(line, edge)
        out.write((paint(line, "bold", out) if number == 0 else line) + "\n")


def print_fields(pairs: Iterable[tuple[str, object]], stream: TextIO | None = None) -> None:
    """Print ``name  value`` lines with the values aligned; a pair without a value is left out."""
    out = stream or sys.stdout
    shown = [(name, clean(value)) for name, value in pairs if value is not None and value != ""]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        out.write(f"  {paint(name.ljust(width), 'dim', out)}  {value}\n")


def print_json(value: object, stream: TextIO | None = None) -> None:
    """Print ``value`` (Structs too) as indented JSON."""
    import msgspec

    out = stream or sys.stdout
    out.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def print_notice(text: str) -> None:
    """Print something worth knowing to stderr."""
    sys.stderr.write(paint(clean(text), "yellow", sys.stderr) + "\n")


def print_failure(error: BaseException, *, as_json: bool = False) -> ExitCode:
    """Tell on stderr why the command failed, and how to go on; returns the exit code."""
    code = exit_code_for(error)
    if code in (ExitCode.INTERRUPTED, ExitCode.PIPE_CLOSED):
        return code
    message = str(error) or ("the time is over" if code is ExitCode.BUSY else type(error).__name__)
    name, remedy, field = code.name, None, None
    if isinstance(error, errors.FluxbeeError):
        name, remedy, field = error.code, error.remedy, error.field
    if as_json:
        print_json({"code": name, "message": message, "remedy": remedy, "field": field}, sys.stderr)
        return code
    first, *more = message.splitlines()
    sys.stderr.write(f"{paint('fluxbee:', 'red', sys.stderr)} {clean(first)}\n")
    sys.stderr.writelines(f"  {clean(line)}\n" for line in more)
    if remedy:
        sys.stderr.write(f"  remedy: {clean(remedy)}\n")
    return code


def _width(text: str) -> int:
    """Columns that a terminal needs: East Asian wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def _fit(line: str, columns: int) -> str:
    if _width(line) <= columns:
        return line
    kept = ""
    for char in line:
        if _width(kept + char) > columns - 1:
            break
        kept += char
    return kept + "…"
