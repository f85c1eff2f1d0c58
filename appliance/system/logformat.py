"""One log record as bytes, for a person, for journald, or for a program; and what must never be in it.

A line is one line: whatever a value holds, control characters are escaped, so that a node's name can neither
forge a record nor drive a terminal. Values of fields whose names speak of secrets are hidden, also inside
mappings, and so are passwords in addresses.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import IntEnum

import msgspec

__all__ = ["HIDDEN", "Formatter", "Level", "Record", "is_secret_name", "journald", "json_line", "terminal"]

HIDDEN = "<hidden>"
"""What stands for a secret."""

MAX_VALUE_CHARS = 2048
"""A value is cut here; a log line is no place for a payload."""

MAX_TRACE_CHARS = 8192
"""A traceback is cut here, at its beginning: its end tells what happened."""


class Level(IntEnum):
    """How urgent a record is; the value orders."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40

    @property
    def word(self) -> str:
        """Lower-case name, as in ``log.level``."""
        return self.name.lower()

    @property
    def priority(self) -> int:
        """syslog priority (``syslog(3)``): error 3, warning 4, info 6, debug 7."""
        return {Level.DEBUG: 7, Level.INFO: 6, Level.WARNING: 4, Level.ERROR: 3}[self]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One event: when (wall clock, ms), how urgent, which service, what, and its fields as given."""

    at_ms: int
    level: Level
    service: str
    event: str
    code: str | None
    fields: Mapping[str, object]
    trace: str | None = None


Formatter = Callable[[Record], bytes]

_SECRET = re.compile(
    r"token|secret|passw|passphrase|credential|authorization|cookie|private|api_?key|(?:^|_)(?:keys?|pat)(?:$|_)",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(r"public_?key|key_?(?:id|count|name|file|fingerprint)", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_BEARER = re.compile(r"(?<=bearer )\S+", re.IGNORECASE)
_BARE = re.compile(r"[^\s\"=]+\Z")


def is_secret_name(name: str) -> bool:
    """Whether a field called ``name`` is hidden: token, secret, password, key and their kin."""
    name = _CAMEL.sub("_", name)
    return _SECRET.search(name) is not None and _NOT_SECRET.search(name) is None


def scrub(text: str) -> str:
    """``text`` without passwords in addresses and without bearer tokens."""
    if "://" in text:
        text = _PASSWORD_IN_URL.sub(HIDDEN, text)
    return _BEARER.sub(HIDDEN, text) if "earer " in text or "EARER " in text else text


def plain(name: str, value: object) -> object:
    """A field's value as something that JSON knows, with its secrets hidden and its length bounded."""
    if value is None or isinstance(value, bool):
        return value
    if is_secret_name(name):
        return HIDDEN
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _cut(scrub(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return _cut(bytes(value).hex())
    if isinstance(value, BaseException):
        return _cut(scrub(f"{type(value).__name__}: {value}"))
    if isinstance(value, msgspec.Struct):
        return {field: plain(field, getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(str(key), item) for key, item in list(value.items())[:64]}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain("", item) for item in list(value)[:64]]
    return _cut(scrub(str(value)))


def _cut(text: str, limit: int = MAX_VALUE_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…(+{len(text) - limit})"


def _iso(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def _word(value: object) -> str:
    """A value in logfmt: bare when it is one word, else a JSON text."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str):
        value = (
            json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if isinstance(value, dict | list)
            else str(value)
        )
    if _BARE.match(value) and value.isprintable():
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _pairs(record: Record) -> list[tuple[str, str]]:
    return [(name, _word(plain(name, value))) for name, value in record.fields.items()]


def json_line(record: Record) -> bytes:
    """One JSON object; ``at`` in RFC 3339. A field that has a name of the frame gets a ``_`` behind it."""
    line: dict[str, object] = {
        "at": _iso(record.at_ms),
        "level": record.level.word,
        "service": record.service,
        "event": record.event,
    }
    if record.code is not None:
        line["code"] = record.code
    for name, value in record.fields.items():
        line[f"{name}_" if name in _FRAME else name] = plain(name, value)
    if record.trace is not None:
        line["trace"] = _trace(record.trace)
    return json.dumps(line, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


_FRAME = frozenset({"at", "level", "service", "event", "code", "trace"})


def journald(record: Record) -> bytes:
    """``<priority>service: event key=value …``; journald has the time, and a unit, already."""
    parts = [f"<{record.level.priority}>{record.service}:", record.event]
    parts += [f"{name}={word}" for name, word in _pairs(record)]
    if record.code is not None:
        parts.append(f"code={record.code}")
    if record.trace is not None:
        parts.append(f"trace={_word(_trace(record.trace))}")
    return " ".join(parts).encode("utf-8", "backslashreplace") + b"\n"


def terminal(record: Record, *, colour: bool) -> bytes:
    """``12:34:56.789 level service event key=value …`` in local time; a traceback in lines of its own."""
    moment = datetime.fromtimestamp(record.at_ms / 1000).astimezone()
    level = f"{record.level.word:<7}"
    event, service = record.event, f"{record.service:<10}"
    clock = moment.strftime("%H:%M:%S.") + f"{record.at_ms % 1000:03d}"
    pairs = [f"{name}={word}" for name, word in _pairs(record)]
    if colour:
        clock, level = f"\033[2m{clock}\033[0m", f"\033[{_COLOURS[record.level]}m{level}\033[0m"
        event = f"\033[1m{event}\033[0m"
        pairs = [f"\033[2m{name}=\033[0m{word}" for name, word in _pairs(record)]
    if record.code is not None:
        pairs.append(f"[{record.code}]")
    line = " ".join([clock, level, service, event, *pairs])
    if record.trace is not None:
        indented = (_visible(text) for text in _trace(record.trace).splitlines())
        line += "".join(f"\n    {text}" for text in indented)
    return line.encode("utf-8", "backslashreplace") + b"\n"


_COLOURS = {Level.DEBUG: "2", Level.INFO: "32", Level.WARNING: "33", Level.ERROR: "31"}


def _visible(text: str) -> str:
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def _trace(text: str) -> str:
    text = scrub(text).rstrip()
    return text if len(text) <= MAX_TRACE_CHARS else "…" + text[-MAX_TRACE_CHARS:]
