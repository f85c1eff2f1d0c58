"""Structured log: an event name and its fields, from any process of the appliance to stderr.

``get_logger("router").info("node_connected", name=…, vpn=…)``. The event is a fixed snake_case word, what
varies is in the fields; a warning carries a code that the documentation explains. Logging never blocks,
never raises and never shows a secret (see ``logsink`` and ``logformat``). It works before :func:`configure`,
and in a forked child.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import traceback
from collections.abc import Iterator, Mapping

import msgspec

from .clock import Clock, SystemClock
from .logformat import Formatter, Level, Record, is_secret_name, journald, json_line, terminal
from .logsink import Sink, SinkStatistics, StreamSink

__all__ = [
    "Level",
    "LogStatistics",
    "Logger",
    "Record",
    "Repeated",
    "bridge_stdlib",
    "capture",
    "choose_format",
    "configure",
    "flush",
    "get_logger",
    "is_secret_name",
    "statistics",
]

STDERR = 2


class LogStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of this process since start: records by level, those that could not be formatted, the sink's."""

    debug: int
    info: int
    warning: int
    error: int
    malformed: int
    sink: SinkStatistics | None


class _Output:
    """Level, format and sink of this process."""

    def __init__(self) -> None:
        self.level = Level.INFO
        self.clock: Clock = SystemClock()
        self.sink: Sink | None = None
        self.formatter: Formatter = json_line
        self.captured: list[Record] | None = None
        self.counts = dict.fromkeys(Level, 0)
        self.malformed = 0

    def emit(self, record: Record) -> None:
        self.counts[record.level] += 1
        if self.captured is not None:
            self.captured.append(record)
            return
        if self.sink is None:
            configure(level=self.level.word)
        assert self.sink is not None
        self.sink.write(self._line(record))
        dropped = self.sink.take_dropped()
        if dropped:
            self.sink.write(self._line(self._dropped(dropped)))

    def _line(self, record: Record) -> bytes:
        try:
            return self.formatter(record)
        except Exception as error:  # noqa: BLE001 -- a field's own __str__ may raise anything; counted
            self.malformed += 1
            fields = {"event": record.event, "reason": type(error).__name__}
            return self.formatter(
                msgspec.structs.replace(
                    record, at_ms=0, event="log_record_malformed", fields=fields, trace=None
                )
            )

    def _dropped(self, count: int) -> Record:
        return Record(
            at_ms=self.clock.wall_ms(),
            level=Level.WARNING,
            service="log",
            event="log_lines_dropped",
            code="LOG_LINES_DROPPED",
            fields={"count": count},
        )


_output = _Output()


class Logger:
    """Logs for one service; :func:`get_logger` makes it, and it may be kept for ever.

    Args:
        service: short name of the service, as in ``fluxbee status``.
        bound: fields that every record carries.
    """

    __slots__ = ("_bound", "service")

    def __init__(self, service: str, bound: Mapping[str, object] | None = None) -> None:
        self.service = service
        self._bound = dict(bound or {})

    def bind(self, **fields: object) -> Logger:
        """A logger whose every record carries ``fields`` too."""
        return Logger(self.service, {**self._bound, **fields})

    def enabled(self, level: Level) -> bool:
        """Whether a record of ``level`` would be written; ask before fields that are dear to compute."""
        return level >= _output.level

    def debug(self, event: str, /, **fields: object) -> None:
        """Something only a developer wants to know."""
        self._log(Level.DEBUG, event, None, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Something happened that was meant to happen."""
        self._log(Level.INFO, event, None, fields)

    def warning(self, event: str, /, *, code: str, **fields: object) -> None:
        """Something is not as it should be, and work goes on; ``code`` is explained in the documentation."""
        self._log(Level.WARNING, event, code, fields)

    def error(self, event: str, /, *, code: str | None = None, **fields: object) -> None:
        """Something failed that somebody wanted."""
        self._log(Level.ERROR, event, code, fields)

    def exception(
        self, event: str, error: BaseException, /, *, code: str | None = None, **fields: object
    ) -> None:
        """Something failed in a way that nobody foresaw: ``error`` with its traceback."""
        trace = "".join(traceback.format_exception(error))
        self._log(Level.ERROR, event, code, {**fields, "error": error}, trace)

    def _log(
        self, level: Level, event: str, code: str | None, fields: dict[str, object], trace: str | None = None
    ) -> None:
        if level < _output.level:
            return
        _output.emit(
            Record(
                at_ms=_output.clock.wall_ms(),
                level=level,
                service=self.service,
                event=event,
                code=code,
                fields={**self._bound, **fields} if self._bound else fields,
                trace=trace,
            )
        )


def get_logger(service: str) -> Logger:
    """The logger of ``service``. Cheap; follows every later :func:`configure`."""
    return Logger(service)


def configure(
    *,
    level: str = "info",
    format: str = "auto",
    sink: Sink | None = None,
    clock: Clock | None = None,
) -> None:
    """Set level, format and destination for this process.

    Args:
        level: debug, info, warning or error; less urgent records are not written.
        format: auto, terminal, journald or json; see :func:`choose_format`.
        sink: where lines go; ``None`` means stderr.
        clock: what gives records their time; ``None`` means the system's.

    Raises:
        ValueError: level or format is none of these.
    """
    by_word = {one.word: one for one in Level}
    if level not in by_word:
        raise ValueError(f"log level {level!r} is none of {', '.join(by_word)}")
    chosen = choose_format(STDERR, os.environ) if format == "auto" else format
    colour = os.isatty(STDERR) and not os.environ.get("NO_COLOR")
    formatters: dict[str, Formatter] = {
        "terminal": functools.partial(terminal, colour=colour),
        "journald": journald,
        "json": json_line,
    }
    if chosen not in formatters:
        raise ValueError(f"log format {format!r} is none of auto, {', '.join(formatters)}")
    _output.level = by_word[level]
    _output.formatter = formatters[chosen]
    _output.clock = clock or SystemClock()
    if sink is not None or _output.sink is None:
        _output.sink = sink or StreamSink(STDERR)


def choose_format(fd: int, environ: Mapping[str, str]) -> str:
    """What ``auto`` means for descriptor ``fd``.

    ``journald`` when ``JOURNAL_STREAM`` names exactly this descriptor (``systemd.exec(5)``; what a service
    starts inherits the variable, but not always the descriptor), ``terminal`` on a terminal, else ``json``.
    """
    try:
        status = os.fstat(fd)
    except OSError:
        return "json"
    if environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
        return "journald"
    return "terminal" if os.isatty(fd) else "json"


def flush(timeout_s: float = 0.2) -> bool:
    """Give a slow reader ``timeout_s`` to take what waits, at the end of a process; whether nothing waits."""
    return not isinstance(_output.sink, StreamSink) or _output.sink.flush(timeout_s)


def statistics() -> LogStatistics:
    """Counts of this process since start."""
    counts = _output.counts
    return LogStatistics(
        debug=counts[Level.DEBUG],
        info=counts[Level.INFO],
        warning=counts[Level.WARNING],
        error=counts[Level.ERROR],
        malformed=_output.malformed,
        sink=_output.sink.statistics() if isinstance(_output.sink, StreamSink) else None,
    )


@contextlib.contextmanager
def capture(level: Level = Level.DEBUG) -> Iterator[list[Record]]:
    """Within the block, records go into the list that is given and nowhere else; for tests."""
    before = _output.captured, _output.level
    records: list[Record] = []
    _output.captured, _output.level = records, level
    try:
        yield records
    finally:
        _output.captured, _output.level = before


class Repeated:
    """Says when to log something that repeats: the first time, then every ``every``-th.

    Args:
        every: how many repetitions share one line.
    """

    __slots__ = ("_every", "count")

    def __init__(self, every: int = 100) -> None:
        if every < 1:
            raise ValueError("every must be at least 1")
        self._every = every
        self.count = 0

    def hit(self) -> int | None:
        """Count one; the count so far when a line is due, else ``None``."""
        self.count += 1
        return self.count if self.count == 1 or self.count % self._every == 0 else None

    def clear(self) -> int:
        """It is over: how often it happened. The next :meth:`hit` is a first one again."""
        count, self.count = self.count, 0
        return count


class _Bridge(logging.Handler):
    """Records of libraries that use the standard library's logging."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = get_logger(record.name.partition(".")[0])
        fields = {"logger": record.name, "message": _message(record)}
        if record.exc_info and record.exc_info[1] is not None:
            logger.exception("library_error", record.exc_info[1], code="LIBRARY_ERROR", **fields)
        elif record.levelno >= logging.ERROR:
            logger.error("library_error", code="LIBRARY_ERROR", **fields)
        elif record.levelno >= logging.WARNING:
            logger.warning("library_warning", code="LIBRARY_WARNING", **fields)
        elif record.levelno >= logging.INFO:
            logger.info("library_message", **fields)
        else:
            logger.debug("library_message", **fields)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # the library's arguments do not fit its own format
        return str(record.msg)


def bridge_stdlib() -> None:
    """Take over what libraries log: the root logger of ``logging`` gets our handler and no other."""
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(int(_output.level))
    logging.captureWarnings(capture=True)


def _after_fork() -> None:
    if isinstance(_output.sink, StreamSink):
        _output.sink.after_fork()


os.register_at_fork(after_in_child=_after_fork)
