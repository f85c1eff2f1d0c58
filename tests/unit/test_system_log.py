"""The log: formats, levels, secrets, repetition, the standard library's bridge, the fork."""

from __future__ import annotations

import json
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.system import log
from appliance.system.log import Level, Record, Repeated, capture, configure, get_logger
from appliance.system.logformat import MAX_TRACE_CHARS, MAX_VALUE_CHARS, journald, json_line, plain, terminal
from appliance.system.logsink import ListSink, StreamSink
from appliance.testing.clock import FakeClock


@pytest.fixture(autouse=True)
def own_output(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test has this process's log to itself."""
    monkeypatch.setattr(log, "_output", log._Output())
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def record(event: str = "node_connected", *, level: Level = Level.INFO, **fields: object) -> Record:
    code = cast("str | None", fields.pop("code", None))
    trace = cast("str | None", fields.pop("trace", None))
    return Record(
        at_ms=1_767_225_600_123,
        level=level,
        service="router",
        event=event,
        code=code,
        fields=fields,
        trace=trace,
    )


# --- formats ----------------------------------------------------------------------------------------


def test_json() -> None:
    line = json_line(record(name="AI.x@h", vpn=3, up=True, code="C"))
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "at": "2026-01-01T00:00:00.123Z",
        "level": "info",
        "service": "router",
        "event": "node_connected",
        "code": "C",
        "name": "AI.x@h",
        "vpn": 3,
        "up": True,
    }


def test_json_keeps_the_frame_apart_from_fields() -> None:
    line = json.loads(json_line(record(level=Level.INFO, service="x", event_="y", at=1)))
    assert (line["service"], line["service_"], line["at_"]) == ("router", "x", 1)


@pytest.mark.parametrize(
    ("level", "priority"), [(Level.DEBUG, 7), (Level.INFO, 6), (Level.WARNING, 4), (Level.ERROR, 3)]
)
def test_journald_has_a_priority_and_no_time(level: Level, priority: int) -> None:
    line = journald(record(level=level, name="a b", count=2, code="C"))
    assert line == f'<{priority}>router: node_connected name="a b" count=2 code=C\n'.encode()


def test_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    line = terminal(record(level=Level.WARNING, name="AI.x", code="SLOW"), colour=False).decode()
    assert line[8:12] == ".123"
    assert line[13:] == "warning router     node_connected name=AI.x [SLOW]\n"


def test_terminal_colours_hold_the_same_words() -> None:
    coloured = terminal(record(name="AI.x"), colour=True).decode()
    assert "\033[" in coloured
    plain_text = terminal(record(name="AI.x"), colour=False).decode()
    for code in ("0", "1", "2", "32"):
        coloured = coloured.replace(f"\033[{code}m", "")
    assert coloured == plain_text


def test_a_traceback_is_one_value_or_indented_lines() -> None:
    told = record(trace="Traceback:\n  File x\nValueError: \x1b[31mbad")
    assert json.loads(json_line(told))["trace"].count("\n") == 2
    assert journald(told).count(b"\n") == 1
    lines = terminal(told, colour=False).decode().splitlines()
    assert lines[1:] == ["    Traceback:", "      File x", "    ValueError: \\x1b[31mbad"]


def test_a_long_traceback_keeps_its_end() -> None:
    line = json.loads(json_line(record(trace="x" * 2 * MAX_TRACE_CHARS + "the end")))
    assert line["trace"].endswith("the end")
    assert len(line["trace"]) == MAX_TRACE_CHARS + 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), VALUES, max_size=4))
def test_a_line_is_one_line_of_harmless_characters(fields: dict[str, object]) -> None:
    fields = {f"f_{name}": value for name, value in fields.items()}
    for line in (
        json_line(record(**fields)),
        journald(record(**fields)),
        terminal(record(**fields), colour=False),
    ):
        text = line.decode()
        assert text.endswith("\n")
        assert text[:-1].isprintable()
    json.loads(json_line(record(**fields)), parse_constant=lambda name: pytest.fail(name))


def test_a_value_cannot_forge_a_record() -> None:
    line = journald(record(name='x\n<3>router: killed code="Y" \x1b[2J'))
    assert line.count(b"\n") == 1
    assert b"\x1b" not in line


def test_long_values_are_cut() -> None:
    value = plain("name", "x" * (MAX_VALUE_CHARS + 7))
    assert value == "x" * MAX_VALUE_CHARS + "…(+7)"


# --- secrets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "api_token",
        "Token",
        "launchToken",
        "secret",
        "client_secret",
        "password",
        "passwd",
        "db_password",
        "passphrase",
        "credential",
        "credentials",
        "authorization",
        "cookie",
        "private_key",
        "key",
        "api_key",
        "apiKey",
        "encryption_key",
        "keys",
        "pat",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert log.is_secret_name(name)
    assert b"geheim" not in json_line(record(**{name: "geheim"}))


@pytest.mark.parametrize(
    "name",
    [
        "name",
        "public_key",
        "key_id",
        "key_count",
        "monkey",
        "keyboard",
        "path",
        "pattern",
        "turnkey",
        "setting",
    ],
)
def test_names_of_no_secrets(name: str) -> None:
    assert not log.is_secret_name(name)


class Login(msgspec.Struct):
    user: str
    password: str


@pytest.mark.parametrize(
    "value",
    [
        {"password": "geheim"},
        {"deep": [{"client_secret": "geheim"}]},
        Login(user="u", password="geheim"),
        "postgres://u:geheim@db/x",
        {"url": "nats://u:geheim@h:1"},
        ValueError("cannot reach postgres://u:geheim@db"),
        "Authorization: Bearer geheim",
        "bearer geheim",
    ],
)
def test_secrets_inside_values(value: object) -> None:
    for line in (json_line(record(detail=value)), journald(record(detail=value))):
        assert b"geheim" not in line
        assert b"<hidden>" in line


def test_secrets_in_tracebacks() -> None:
    told = record(trace="OSError: postgres://u:geheim@db")
    assert b"geheim" not in json_line(told) + journald(told) + terminal(told, colour=True)


# --- loggers ----------------------------------------------------------------------------------------


def test_a_logger_writes_through_the_configured_sink() -> None:
    sink = ListSink()
    configure(level="info", format="json", sink=sink, clock=FakeClock())
    logger = get_logger("router")
    logger.debug("unseen")
    logger.info("node_connected", name="AI.x")
    logger.warning("queue_full", code="QUEUE_FULL", name="AI.x")
    logger.error("link_lost", code="LINK_LOST")
    lines = [json.loads(line) for line in sink.lines]
    assert [line["event"] for line in lines] == ["node_connected", "queue_full", "link_lost"]
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert lines[0]["at"] == "2026-01-01T00:00:00.000Z"
    assert lines[1]["code"] == "QUEUE_FULL"
    found = log.statistics()
    assert (found.debug, found.info, found.warning, found.error, found.malformed) == (0, 1, 1, 1, 0)


def test_a_box_without_battery_logs() -> None:
    sink, clock = ListSink(), FakeClock()
    clock.lose_battery()
    configure(format="json", sink=sink, clock=clock)
    get_logger("x").info("booted")
    assert json.loads(sink.lines[0])["at"] == "1970-01-01T00:00:00.000Z"


def test_bound_fields_come_first_and_can_be_replaced() -> None:
    with capture() as records:
        logger = get_logger("world").bind(stream="a", peer=1)
        logger.info("opened", peer=2, count=3)
    assert dict(records[0].fields) == {"stream": "a", "peer": 2, "count": 3}
    assert (records[0].service, records[0].event) == ("world", "opened")


def test_exceptions_carry_their_traceback() -> None:
    with capture() as records:
        try:
            raise ValueError("bad")
        except ValueError as error:
            get_logger("x").exception("service_failed", error, code="SERVICE_FAILED", attempt=1)
    (told,) = records
    assert told.trace is not None
    assert told.trace.splitlines()[-1] == "ValueError: bad"
    assert plain("error", told.fields["error"]) == "ValueError: bad"


def test_levels() -> None:
    configure(level="error", format="json", sink=ListSink())
    logger = get_logger("x")
    assert not logger.enabled(Level.WARNING)
    assert logger.enabled(Level.ERROR)
    for words in ({"level": "loud"}, {"format": "xml"}):
        with pytest.raises(ValueError, match="is none of"):
            configure(**words)


class Awkward:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_a_value_that_cannot_be_shown_is_counted() -> None:
    sink = ListSink()
    configure(format="json", sink=sink)
    get_logger("x").info("seen", thing=Awkward())
    line = json.loads(sink.lines[0])
    assert (line["event"], line["event_"], line["reason"]) == ("log_record_malformed", "seen", "RuntimeError")
    assert log.statistics().malformed == 1


def test_it_works_before_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    monkeypatch.setattr(log, "STDERR", write_end)
    get_logger("x").info("early")
    os.close(write_end)
    assert json.loads(os.read(read_end, 4096))["event"] == "early"
    os.close(read_end)
    assert log.flush()
    cast(StreamSink, log._output.sink).close()


def test_auto_chooses_by_the_descriptor() -> None:
    ours, theirs = socket.socketpair()
    status = os.fstat(ours.fileno())
    stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    assert log.choose_format(ours.fileno(), stream) == "journald"
    assert log.choose_format(theirs.fileno(), stream) == "json"
    number = ours.fileno()
    ours.close()
    theirs.close()
    assert log.choose_format(number, stream) == "json"
    master, slave = os.openpty()
    assert log.choose_format(slave, stream) == "terminal"
    os.close(master)
    os.close(slave)


def test_what_was_dropped_is_told_once_there_is_room() -> None:
    read_end, write_end = os.pipe()
    sink = StreamSink(write_end, backlog_bytes=2000)
    configure(format="json", sink=sink)
    logger = get_logger("x")
    while sink.statistics().dropped_lines < 5:
        logger.info("noise", text="n" * 500)
    os.set_blocking(read_end, False)
    seen = b""
    while not sink.flush():
        seen += os.read(read_end, 1 << 20)
    logger.info("after")
    seen += os.read(read_end, 1 << 20)
    lines = [json.loads(line) for line in seen.splitlines()]
    assert [line["event"] for line in lines[-2:]] == ["after", "log_lines_dropped"]
    assert (lines[-1]["count"], lines[-1]["code"]) == (5, "LOG_LINES_DROPPED")
    sink.close()
    os.close(read_end)
    os.close(write_end)


@pytest.mark.process
def test_a_forked_child_does_not_repeat_its_parents_backlog() -> None:
    read_end, write_end = os.pipe()
    sink = StreamSink(write_end)
    configure(format="json", sink=sink)
    while sink.statistics().backlog_bytes == 0:
        get_logger("x").info("parent", text="p" * 500)
    child = os.fork()
    if child == 0:
        os._exit(0 if sink.statistics().backlog_bytes == 0 and sink.flush() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert sink.statistics().backlog_bytes > 0
    sink.close()
    os.close(read_end)
    os.close(write_end)


# --- repetition -------------------------------------------------------------------------------------


def test_the_first_and_every_nth() -> None:
    repeated = Repeated(25)
    assert [count for _ in range(60) if (count := repeated.hit()) is not None] == [1, 25, 50]
    assert repeated.clear() == 60
    assert repeated.hit() == 1
    with pytest.raises(ValueError, match="at least 1"):
        Repeated(0)


# --- the standard library ---------------------------------------------------------------------------


def test_libraries_are_heard() -> None:
    with capture() as records:
        log.bridge_stdlib()
        library = logging.getLogger("hypercorn.error")
        library.debug("d")
        library.info("listening on %s", "x")
        library.warning("w")
        library.error("e")
        library.info("%d", "not a number")
        try:
            raise OSError("gone")
        except OSError:
            library.exception("failed")
        warnings.showwarning("old", DeprecationWarning, "file.py", 1)
    assert [(one.service, one.event, one.level.word) for one in records] == [
        ("hypercorn", "library_message", "debug"),
        ("hypercorn", "library_message", "info"),
        ("hypercorn", "library_warning", "warning"),
        ("hypercorn", "library_error", "error"),
        ("hypercorn", "library_message", "info"),
        ("hypercorn", "library_error", "error"),
        ("py", "library_warning", "warning"),
    ]
    assert records[1].fields["message"] == "listening on x"
    assert records[4].fields["message"] == "%d"
    assert records[5].trace is not None
