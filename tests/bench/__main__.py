"""``python -m tests.bench NAME… | all | list``: measure, print a table, end with one line of JSON.

A name is a module of this package or ``module.part``. The last line of the output is ``{"bench": …,
"figures": [{"name", "value", "unit", "baseline", "ratio", "goal", "ok"}, …], "machine": …, "notes": …,
"errors": …}``. The exit status is 1 when a benchmark failed to run; a missed goal is a figure, not a
failure, unless ``--strict`` says so.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

import msgspec

from tests import bench as package
from tests.bench.harness import Figure, Options, describe_machine, note, set_options, table, take_notes

LIMIT_S = 60
"""How long a benchmark should take at most; three times that and it is ended."""

Run = Callable[[], list[Figure]]
_NOT_BENCHES = {"__main__", "harness", "clients"}


class BenchTimeout(Exception):
    """A benchmark took three times the time that it may take."""


def names() -> list[str]:
    """All benchmarks that there are, modules with parts spelled out."""
    modules = [
        found.name for found in pkgutil.iter_modules(package.__path__) if found.name not in _NOT_BENCHES
    ]
    return [name for module in sorted(modules) for name, _ in expand(module)]


def expand(name: str) -> Iterator[tuple[str, Run]]:
    """The benchmarks that ``name`` stands for.

    Raises:
        SystemExit: there is none of that name.
    """
    module_name, _, part = name.partition(".")
    try:
        module = importlib.import_module(f"tests.bench.{module_name}")
    except ModuleNotFoundError as error:
        if error.name != f"tests.bench.{module_name}":
            raise
        raise SystemExit(f"no benchmark {name!r}; `python -m tests.bench list` names them") from error
    parts: dict[str, Run] | None = getattr(module, "PARTS", None)
    if parts is None:
        yield name, module.run
    elif part:
        if part not in parts:
            raise SystemExit(f"{module_name} has no part {part!r}, only {', '.join(parts)}")
        yield name, parts[part]
    else:
        yield from ((f"{module_name}.{key}", run) for key, run in parts.items())


def measure(name: str, run: Run) -> tuple[list[Figure], str | None]:
    """Run one benchmark; its figures, and what went wrong if it failed."""

    def give_up(number: int, where: FrameType | None) -> None:
        raise BenchTimeout(f"ended after {3 * LIMIT_S} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(3 * LIMIT_S)
    began = time.monotonic()
    try:
        figures = run()
        failure = None
    except Exception as error:  # noqa: BLE001 - the other benchmarks still run, and the status says so
        traceback.print_exc()
        figures, failure = [], f"{name}: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    took_s = time.monotonic() - began
    print(f"\n{name} ({took_s:.1f} s)")
    if took_s > LIMIT_S:
        print(f"took longer than {LIMIT_S} s")
    if figures:
        print(table(figures))
    return figures, failure


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply message counts")
    parser.add_argument("--router", choices=("fluxbee", "pump"), default="fluxbee")
    parser.add_argument("--planes", choices=("together", "apart"), default="together")
    parser.add_argument("--command", help="starts the program instead of this checkout's; {root} {config}")
    parser.add_argument("--nats", help="path of nats-server; empty leaves its baseline out")
    parser.add_argument("--strict", action="store_true", help="a missed goal is a failure")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Measure what ``argv`` names; the exit status."""
    wanted = _arguments(argv)
    set_options(
        Options(
            scale=wanted.scale,
            router=wanted.router,
            planes=wanted.planes,
            command=wanted.command,
            nats=wanted.nats,
        )
    )
    if wanted.names == ["list"]:
        print("\n".join(names()))
        return 0
    chosen = names() if wanted.names == ["all"] else wanted.names
    runs = [run for name in chosen for run in expand(name)]
    machine = describe_machine()
    print(f"{machine.cpu}, {machine.cpus} CPUs, {machine.memory_gib} GiB, Linux {machine.kernel}, ", end="")
    print(f"Python {machine.python}, load {machine.load_before}")
    if machine.load_before > machine.cpus / 4:
        note(f"load {machine.load_before} on {machine.cpus} CPUs before the start: rates can be higher")
    figures: list[Figure] = []
    errors: list[str] = []
    for name, run in runs:
        measured, failure = measure(name, run)
        prefix = f"{name}: " if len(runs) > 1 else ""
        figures += [msgspec.structs.replace(figure, name=prefix + figure.name) for figure in measured]
        errors += [failure] if failure else []
    notes = take_notes()
    print("".join(f"\nnote: {text}" for text in notes))
    report = {
        "bench": ",".join(wanted.names),
        "figures": figures,
        "machine": machine,
        "notes": notes,
        "errors": errors,
    }
    print(msgspec.json.encode(report).decode(), flush=True)
    missed = wanted.strict and any(figure.ok is False for figure in figures)
    return 1 if errors or missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
