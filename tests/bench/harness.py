"""What every benchmark shares: figures with a baseline and a goal, the machine, CPUs, medians.

A benchmark is a module of this package with ``run() -> list[Figure]``, or with ``PARTS``, a mapping of
names to such functions, each of at most a minute. A number without its baseline in the same run says
nothing about another machine; a single run says nothing on a busy one. So baselines are interleaved with
what is measured, and medians are reported.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

__all__ = [
    "Cpus",
    "Figure",
    "Machine",
    "Options",
    "at_least",
    "at_most",
    "compiled",
    "cpus",
    "describe_machine",
    "interleave",
    "median_ratio",
    "note",
    "options",
    "percentile",
    "pinned",
    "rss_anon",
    "set_options",
    "table",
    "take_notes",
]


W = TypeVar("W", bound=str)


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number.

    ``baseline`` is the same quantity of the thing compared with, in the same unit and the same run;
    ``ratio`` is ``value / baseline`` (the median over pairs where there were several). ``goal`` is what it
    should be, in words, and ``ok`` whether it is.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    goal: str | None = None
    ok: bool | None = None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the numbers come from."""

    cpu: str
    cpus: int
    memory_gib: float
    kernel: str
    python: str
    load_before: float


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says to benchmarks.

    ``scale`` multiplies message counts (the tests use a small one); ``router`` is ``fluxbee`` or ``pump``;
    ``command`` replaces the command that starts the program (``{root}`` and ``{config}`` are filled in);
    ``nats`` is the path of ``nats-server``, ``None`` to look for it and ``""`` to leave it out.
    """

    scale: float = 1.0
    router: str = "fluxbee"
    planes: str = "together"
    command: str | None = None
    nats: str | None = None

    def scaled(self, count: int, *, least: int = 1, multiple: int = 1) -> int:
        """``count`` times the scale, at least ``least``, rounded up to a multiple of ``multiple``."""
        wanted = max(least, int(count * self.scale))
        return -(-wanted // multiple) * multiple


_BYTECODE = ("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")

_options = Options()
_notes: list[str] = []


def options() -> Options:
    """The options of this run."""
    return _options


def set_options(chosen: Options) -> None:
    """Set the options of this run."""
    global _options
    _options = chosen


def note(text: str) -> None:
    """Remark something that the reader of the figures must know; printed once below the table."""
    if text not in _notes:
        _notes.append(text)


def take_notes() -> list[str]:
    """The remarks since the last call."""
    taken = list(_notes)
    _notes.clear()
    return taken


class Cpus(msgspec.Struct, frozen=True):
    """Which CPU the measured program has to itself, and which one its clients share."""

    program: int
    clients: int


def cpus() -> Cpus:
    """The first two CPUs that this process may use; on a machine with one, it is both (and noted)."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) == 1:
        note("one CPU: program and clients share it")
    return Cpus(usable[0], usable[-1] if len(usable) == 2 else usable[min(1, len(usable) - 1)])


@contextlib.contextmanager
def pinned(cpu: int | None) -> Iterator[None]:
    """Run this process, and what it starts, on ``cpu`` within the block; ``None`` changes nothing."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def compiled(folder: Path) -> Iterator[None]:
    """Let programs that are started within the block keep their compiled modules below ``folder``.

    An installed program has them. A developer's shell may forbid them, and then every start compiles
    everything anew, which nobody wants to measure. Whoever measures starts starts once before.
    """
    kept = {name: os.environ.pop(name, None) for name in _BYTECODE}
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def describe_machine() -> Machine:
    """This machine."""
    return Machine(
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        load_before=round(os.getloadavg()[0], 2),
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "Hardware"}:
            return value.strip()
    return platform.machine()


def rss_anon(pid: int | str = "self") -> int:
    """Private resident memory of a process, in bytes (``RssAnon`` of its status)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0–1) of ``values`` lie, interpolated between neighbours.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interleave(ways: Mapping[W, Callable[[], float]], repeats: int) -> dict[W, list[float]]:
    """Measure each way ``repeats`` times, in turn, so that what disturbs the machine disturbs all alike.

    The order is reversed every other round: whoever comes second must not always be second.
    """
    results: dict[W, list[float]] = {name: [] for name in ways}
    for number in range(repeats):
        names = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in names:
            results[name].append(ways[name]())
    return results


def median_ratio(values: Sequence[float], baselines: Sequence[float]) -> float:
    """Median of the ratios of pairs taken next to each other."""
    return statistics.median(value / baseline for value, baseline in zip(values, baselines, strict=True))


def at_least(
    name: str,
    value: float,
    unit: str,
    least: float | None = None,
    *,
    baseline: float | None = None,
    ratio: float | None = None,
) -> Figure:
    """A figure that should be ``least`` or more; without ``least`` it has no goal."""
    return Figure(
        name=name,
        value=value,
        unit=unit,
        baseline=baseline,
        ratio=_ratio(value, baseline, ratio),
        goal=None if least is None else f"≥ {least:g} {unit}",
        ok=None if least is None else value >= least,
    )


def at_most(
    name: str,
    value: float,
    unit: str,
    most: float | None = None,
    *,
    baseline: float | None = None,
    ratio: float | None = None,
    most_ratio: float | None = None,
) -> Figure:
    """A figure that should be ``most`` or less, or at most ``most_ratio`` times its baseline."""
    ratio = _ratio(value, baseline, ratio)
    goal, ok = None, None
    if most_ratio is not None:
        goal, ok = f"≤ {most_ratio:g} × baseline", None if ratio is None else ratio <= most_ratio
    elif most is not None:
        goal, ok = f"≤ {most:g} {unit}", value <= most
    return Figure(name=name, value=value, unit=unit, baseline=baseline, ratio=ratio, goal=goal, ok=ok)


def _ratio(value: float, baseline: float | None, ratio: float | None) -> float | None:
    if ratio is not None or not baseline:
        return ratio
    return value / baseline


def table(figures: Sequence[Figure]) -> str:
    """The figures for a reader at a terminal."""
    rows = [("what", "value", "baseline", "ratio", "goal", "")]
    rows += [
        (
            figure.name,
            f"{_digits(figure.value)} {figure.unit}",
            "–" if figure.baseline is None else _digits(figure.baseline),
            "–" if figure.ratio is None else f"{figure.ratio:.2f} ×",
            figure.goal or "–",
            {True: "ok", False: "MISSED", None: ""}[figure.ok],
        )
        for figure in figures
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    lines = []
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:4], widths[1:4], strict=True)),
        ]
        lines.append("  ".join([*cells, row[4].ljust(widths[4]), row[5]]).rstrip())
    return "\n".join(lines)


def _digits(value: float) -> str:
    """Four significant digits, thousands grouped."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
