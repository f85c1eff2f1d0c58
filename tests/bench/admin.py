"""Node supervision and the admin door: spawns, a resting fleet, reads, reads under load, the start.

The program is a motherbee in a folder of its own with ``docs/examples/ai-echo`` published as a package; nodes
are real processes that it starts. Door clients are processes with plain sockets. Compiled modules are there,
as in an installation.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from appliance.testing.hive import HiveHarness

from .clients.fleet import ROOT, ClientFailed, ClientProcess, Fleet
from .clients.hive import health
from .clients.procs import cpu_by_thread, descendants, growth, pin, put_first
from .harness import (
    Figure,
    at_least,
    at_most,
    compiled,
    cpus,
    interleave,
    median_ratio,
    note,
    options,
    percentile,
    pinned,
)
from .idle import on_tmpfs, usage

__all__ = ["PARTS"]

EXAMPLE = ROOT / "docs" / "examples" / "ai-echo"
TENANT = "tnt:11111111-2222-4333-8444-555555555555"
PATIENCE_S = 60.0
LOOK_S = 0.01
"""Between two looks at a node that starts: what a measured spawn may be too long."""

SPAWNS = 24
FLEET = 50
SETTLE_S = 70.0
"""Until the upkeep that follows the last spawn is over; it comes once a minute, and only after changes."""
WATCH_S = 60.0
"""Longer than the keeper's and the planes' signs of life, which come every ten seconds."""

READS = 3000
BLOCKS = 6
LIST_NODES = 1000
LISTS = 60
PAIRS = 8
STARTS = 7

READ_PATHS = (
    "/health",
    "/hive/status",
    "/hives/{hive}/nodes/AI.echo.n00/status",
    "/hives/{hive}/nodes",
    "/inventory/summary",
    "/routes",
    "/versions",
    "/admin/actions",
)
"""What the load reads in turn: answers of the door itself, of SY.admin, of other services and of a node."""

DOOR_PATHS = ("/admin/actions", "/admin/actions/run_node", "/openapi.json", "/modules")
"""What the control plane answers without a message to anybody."""


class Box:
    """A running hive with the echo package, and a plain HTTP client for what is not timed."""

    def __init__(self, harness: HiveHarness) -> None:
        self.harness = harness
        self.hive = harness.hive_id

    @property
    def pid(self) -> int:
        """The keeper."""
        assert self.harness.process is not None
        return self.harness.process.pid

    def plane(self, name: str) -> int:
        """Process of a plane."""
        pid = self.harness.plane_pid(name)
        assert pid is not None
        return pid

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One request on a connection of its own.

        Raises:
            ClientFailed: the answer is not 200.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.harness.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ClientFailed(f"{method} {path}: {response.status} {text[:300]!r}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def path(self, name: str, rest: str = "") -> str:
        """Of a node."""
        return f"/hives/{self.hive}/nodes/{name}{rest}"

    def publish(self) -> None:
        """Install the example as a package."""
        files = {
            str(path.relative_to(EXAMPLE)): path.read_text()
            for path in EXAMPLE.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        self.call(
            "POST",
            "/admin/runtime-packages/publish",
            {"source": {"kind": "inline_package", "files": files}},
        )

    def spawn(self, name: str) -> None:
        """Ask for a node."""
        self.call("POST", f"/hives/{self.hive}/nodes", {"node_name": name, "runtime": "ai.echo"})

    def until(self, name: str, state: str) -> None:
        """Look until the node is in ``state``.

        Raises:
            ClientFailed: it is not, after a minute.
        """
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.state(name)) != state:
            if time.monotonic() > deadline:
                raise ClientFailed(f"{name} is {found} and not {state}:\n{self.harness.log_tail()}")
            time.sleep(LOOK_S)

    def state(self, name: str) -> str:
        """``RUNNING`` and the like."""
        answer = self.call("GET", self.path(name, "/status"))
        return str(answer["payload"]["node_status"]["lifecycle_state"])


@contextmanager
def box(*, planes: str | None = None, nodes: int = 0) -> Iterator[Box]:
    """A hive with ``nodes`` running echo nodes ``AI.echo.n00``, …"""
    mode = planes or options().planes
    with tempfile.TemporaryDirectory(prefix="fba-") as folder, compiled(Path(folder) / "compiled"):
        settings = {"orchestrator": {"default_tenant_id": TENANT}, "limits": {"nodes": LIST_NODES + 64}}
        root = Path(folder) / "h"
        harness = HiveHarness(root, planes=mode, settings=settings)  # type: ignore[arg-type]
        with harness:
            made = Box(harness)
            made.publish()
            names = [f"AI.echo.n{number:02}" for number in range(nodes)]
            for name in names:
                made.spawn(name)
            for name in names:
                made.until(name, "RUNNING")
            yield made


# Spawning.


def _program_alone(folder: Path) -> float:
    """Seconds of an interpreter that runs a node's file with a node's imports and ends."""
    probe = folder / "probe.py"
    probe.write_text(
        "import anyio, msgspec\nfrom appliance.sdk import ManagedConfig, Message, Node, run_node\n"
    )
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "appliance", "node", "run", str(probe)],
        check=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    return time.perf_counter() - began


def spawn() -> list[Figure]:
    """One node after the other: from the request until its status says RUNNING."""
    launched: list[float] = []
    numbers = iter(range(1000))

    with box() as hive:

        def one() -> float:
            name = f"AI.echo.s{next(numbers):02}"
            began = time.perf_counter()
            hive.spawn(name)
            launched.append(time.perf_counter() - began)
            hive.until(name, "RUNNING")
            took = time.perf_counter() - began
            hive.call("DELETE", hive.path(name), {})
            hive.until(name, "STOPPED")
            return took

        with tempfile.TemporaryDirectory(prefix="fba-") as folder:
            ways = {"spawn": one, "alone": lambda: _program_alone(Path(folder))}
            interleave(ways, 1)  # compiles what is not compiled yet
            launched.clear()
            results = interleave(ways, options().scaled(SPAWNS, least=2))
    took, alone = results["spawn"], results["alone"]
    return [
        at_most(
            "spawn to RUNNING, median | program, imports and end of an empty node",
            statistics.median(took),
            "s",
            1.5,
            baseline=statistics.median(alone),
            ratio=median_ratio(took, alone),
        ),
        at_most("the same, p99", percentile(took, 0.99), "s", 1.5),
        at_most("answer to the request: launched, median", statistics.median(launched), "s"),
    ]


# A fleet at rest.


def fleet() -> list[Figure]:
    """Fifty nodes that nobody asks anything: what it costs to keep them."""
    settle_s, watch_s = SETTLE_S * options().scale, max(1.0, WATCH_S * options().scale)
    count = options().scaled(FLEET, least=2)
    with box(planes="apart", nodes=count) as hive:
        if on_tmpfs(hive.harness.paths.lib):
            note(f"{hive.harness.paths.lib} is in memory: bytes to disk are not counted there; set TMPDIR")
        keeper, control, data = [hive.pid], [hive.plane("control")], [hive.plane("data")]
        supervision = keeper + control
        everything = [*supervision, *data, hive.plane("world")]
        nodes = [pid for pid in descendants(hive.pid) if pid not in everything]
        time.sleep(settle_s)
        groups = {"both": supervision, "data": data, "nodes": nodes}
        before = {name: cpu_by_thread(pids) for name, pids in groups.items()}
        written, began = sum(usage(pid, alone=True).written_bytes for pid in everything), time.monotonic()
        time.sleep(watch_s)
        seconds = time.monotonic() - began
        more = sum(usage(pid, alone=True).written_bytes for pid in everything) - written
        share = {
            name: growth(before[name], cpu_by_thread(pids)) / 1e7 / seconds for name, pids in groups.items()
        }
        memory = [usage(pid, alone=True).pss_bytes for pid in nodes]
    return [
        at_most(f"CPU of keeper and control plane with {count} nodes at rest", share["both"], "%", 1.0),
        at_most("of the data plane", share["data"], "%"),
        at_most(f"of the {len(nodes)} processes of the nodes together", share["nodes"], "%"),
        at_most("bytes to disk of the program", more / seconds * 86_400 / 1e6, "MB/day"),
        at_most("memory of one node, proportional set size", statistics.median(memory) / 2**20, "MiB"),
    ]


# Reading.


def _reader(clients: Fleet, hive: Box, cpu: int | None = None) -> ClientProcess:
    client = clients.start(["-S", "-E", "-m", "tests.bench.clients.web"], label="web", cpu=cpu)
    client.ask("open", port=hive.harness.port)
    return client


def status() -> list[Figure]:
    """The status of one node, which the node itself is asked for, beside ``/health``."""
    count = max(10, options().scaled(READS) // BLOCKS)
    medians: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    with box(nodes=1) as hive, Fleet() as clients:
        paths = {"status": hive.path("AI.echo.n00", "/status"), "health": "/health"}
        client = _reader(clients, hive)

        def block(name: str) -> float:
            times = client.ask("get", path=paths[name], count=count, warm=20, timeout_s=PATIENCE_S)
            medians.setdefault(name, []).append(_ms(times, "p50_ns"))
            tails.setdefault(name, []).append(_ms(times, "p99_ns"))
            return 0.0

        interleave({name: partial(block, name) for name in paths}, BLOCKS)
    return [
        at_most(
            f"GET status of a node, {label} | GET /health",
            statistics.median(values["status"]),
            "ms",
            goal,
            baseline=statistics.median(values["health"]),
            ratio=median_ratio(values["status"], values["health"]),
        )
        for label, values, goal in (("p50", medians, None), ("p99", tails, 20.0))
    ]


def _ms(times: dict[str, object], key: str) -> float:
    value = times[key]
    assert isinstance(value, int)
    return value / 1e6


def listing() -> list[Figure]:
    """The list of a thousand nodes that are connected and nothing else."""
    count = options().scaled(LIST_NODES)
    lists = max(3, options().scaled(LISTS))
    with box(nodes=1) as hive, Fleet() as clients:
        path = f"/hives/{hive.hive}/nodes"
        for first in range(0, count, 500):
            crowd = clients.client(f"crowd {first}")
            names = [f"AI.crowd{number:04}" for number in range(first, min(count, first + 500))]
            crowd.ask(
                "open",
                kind="flux",
                address=str(hive.harness.socket_path),
                nodes=[(str(uuid.uuid4()), name) for name in names],
                timeout_s=PATIENCE_S,
            )
        found = int(hive.call("GET", path)["payload"]["node_count"])
        if found < count:
            raise ClientFailed(f"{found} of {count} nodes are in the list")
        times = _reader(clients, hive).ask("get", path=path, count=lists, warm=5, timeout_s=PATIENCE_S)
    note(f"list of {count} nodes: {times['body_bytes']} bytes")
    return [
        at_most(f"list of {found} nodes, p50", _ms(times, "p50_ns"), "ms", 50),
        at_most("the same, p99", _ms(times, "p99_ns"), "ms"),
    ]


# The planes apart.

_SCRIPT = """
local paths = {%s}
local at = 0
request = function()
  at = at %% #paths + 1
  return wrk.format("GET", paths[at])
end
"""
_RATE = re.compile(r"Requests/sec:\s*([\d.]+)")
_TROUBLE = re.compile(r"Non-2xx or 3xx responses:.*|Socket errors:.*")


class Load:
    """wrk with 64 connections on ``paths``; no faster than the CPU that it shares with the door."""

    def __init__(self, hive: Box, program: str, paths: tuple[str, ...], cpu: int) -> None:
        wanted = ", ".join(f'"{path.format(hive=hive.hive)}"' for path in paths)
        script = hive.harness.paths.etc / f"load{len(paths)}.lua"
        script.write_text(_SCRIPT % wanted)
        self._argv = [program, "-t2", "-c64", "-s", str(script), hive.harness.url]
        self._cpu = cpu
        self.rates: list[float] = []

    @contextmanager
    def running(self, seconds: int) -> Iterator[None]:
        """Load within the block, which has to end within ``seconds``."""
        with (
            pinned(self._cpu),
            subprocess.Popen([*self._argv, f"-d{seconds}"], stdout=subprocess.PIPE, text=True) as process,
        ):
            time.sleep(0.5)  # its connections
            try:
                yield
                if process.poll() is not None:
                    raise ClientFailed("the load ended before the measurement")
            finally:
                output, _ = process.communicate(timeout=PATIENCE_S)
        for trouble in _TROUBLE.findall(output):
            note(f"under load: {trouble}")
        found = _RATE.search(output)
        if found is None:
            raise ClientFailed(f"wrk said {output[-500:]!r}")
        self.rates.append(float(found[1]))


def load() -> list[Figure]:
    """The router's round trip while the admin door is read as fast as it can be, and while it is not.

    Data plane and its two clients have one CPU; keeper, control plane, world plane and wrk the other one.
    What else runs on the machine is driven onto the first CPU by the load, so the three go before it, always.
    """
    program = shutil.which("wrk")
    if program is None:
        note("wrk is not installed: the round trip under load is not measured")
        return []
    chosen = cpus()
    with box(planes="apart", nodes=1) as hive, Fleet() as clients:
        for pid in descendants(hive.pid):
            pin(pid, chosen.clients)
        pin(hive.plane("data"), chosen.program)
        loads = {
            "answers of the door itself": Load(hive, program, DOOR_PATHS, chosen.clients),
            "all kinds of reads": Load(hive, program, READ_PATHS, chosen.clients),
        }
        trip = Trip(hive, clients, chosen.program, options().scaled(10_000, least=200))
        first = [put_first(pid) for pid in (hive.plane("data"), *trip.pids)]
        if not all(first):
            note("no right to set priorities: other programs disturb the round trip")

        def block(way: str) -> float:
            trip.prepare()
            with loads[way].running(3) if way in loads else nullcontext():
                trip.measure(way)
            return 0.0

        ways = {way: partial(block, way) for way in ("quiet", *loads)}
        interleave(ways, max(2, options().scaled(PAIRS)))
    return [figure for way, one in loads.items() for figure in _beside(way, one, trip)]


def _beside(way: str, one: Load, trip: Trip) -> list[Figure]:
    figures = [
        at_most(
            f"round trip {label} beside {way} | without",
            statistics.median(values[way]),
            "µs",
            baseline=statistics.median(values["quiet"]),
            ratio=median_ratio(values[way], values["quiet"]),
            most_ratio=1.1 if label == "p99" else None,
        )
        for label, values in (("p50", trip.medians), ("p99", trip.tails))
    ]
    return [*figures, at_least("read meanwhile, wrk on the same CPU", statistics.median(one.rates), "1/s")]


class Trip:
    """Two nodes on one CPU that send each other one message after the other."""

    def __init__(self, hive: Box, clients: Fleet, cpu: int, count: int) -> None:
        self._count = count
        self._names = [f"AI.{name}@{hive.hive}" for name in ("a", "b")]
        self._ends = [clients.client(name, cpu=cpu) for name in self._names]
        address = str(hive.harness.socket_path)
        for client, name in zip(self._ends, self._names, strict=True):
            nodes = [(str(uuid.uuid4()), name.partition("@")[0])]
            client.ask("open", kind="flux", address=address, nodes=nodes)
        self.medians: dict[str, list[float]] = {}
        self.tails: dict[str, list[float]] = {}

    @property
    def pids(self) -> list[int]:
        """Both processes."""
        return [client.pid for client in self._ends]

    def prepare(self) -> None:
        """Format the messages of one measurement."""
        for client, other in zip(self._ends, reversed(self._names), strict=True):
            client.ask("prepare", to=[other], count=self._count + 50, per_write=1, shape=("io", 350, 0))

    def measure(self, way: str) -> None:
        """Median and 99th percentile of one measurement, kept under ``way``, in microseconds."""
        a, b = self._ends
        b.tell("echo", count=self._count + 50, warm=50)
        times = a.ask("ping", count=self._count, warm=50, timeout_s=PATIENCE_S)
        b.hear()
        self.medians.setdefault(way, []).append(_ms(times, "p50_ns") * 1000)
        self.tails.setdefault(way, []).append(_ms(times, "p99_ns") * 1000)


# Starting.


def _seconds(*argv: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *argv], check=True, cwd=ROOT, timeout=PATIENCE_S)
    return time.perf_counter() - began


def _start(folder: Path, planes: str, work: list[float], answers: list[float]) -> float:
    """Seconds until READY=1; then how long until /health is 200, and the CPU of everybody until then."""
    harness = HiveHarness(folder, planes=planes)  # type: ignore[arg-type]
    began = time.perf_counter()
    with harness:
        took = time.perf_counter() - began
        while health(harness.port) != 200:
            pass
        answers.append(time.perf_counter() - began)
        assert harness.process is not None
        work.append(sum(cpu_by_thread(descendants(harness.process.pid)).values()) / 1e9)
    return took


def _started(folder: Path, planes: str) -> list[Figure]:
    work: list[float] = []
    answers: list[float] = []
    ways: dict[str, Callable[[], float]] = {
        "ready": lambda: _start(folder, planes, work, answers),
        "imports": lambda: _seconds("-c", "import appliance.cli.run, appliance.app"),
        "python": lambda: _seconds("-c", "pass"),
    }
    interleave(ways, 1)  # compiles
    work.clear()
    answers.clear()
    results = interleave(ways, options().scaled(STARTS, least=2))
    found = {name: statistics.median(values) for name, values in results.items()}
    return [
        at_most(
            f"{planes}: start to READY | the interpreter with the program's imports",
            found["ready"],
            "s",
            0.8,
            baseline=found["imports"],
        ),
        at_most(f"{planes}: to /health 200", statistics.median(answers), "s", 0.8),
        at_most(f"{planes}: imports", found["imports"] - found["python"], "s"),
        at_most(f"{planes}: CPU of all processes until then", statistics.median(work), "s"),
    ]


def start() -> list[Figure]:
    """From the command to READY, and how much of it is imports, which all planes share by fork."""
    with tempfile.TemporaryDirectory(prefix="fba-") as folder, compiled(Path(folder) / "compiled"):
        home = Path(folder)
        return _started(home / "t", "together") + _started(home / "a", "apart")


PARTS: dict[str, Callable[[], list[Figure]]] = {
    "spawn": spawn,
    "fleet": fleet,
    "status": status,
    "listing": listing,
    "load": load,
    "start": start,
}
