"""The router against raw sockets and nats-server: throughput, fan-out, round trips, stall, burst.

Everything is measured on the wire, by client processes with plain sockets (``clients/``). The program has
one CPU, the clients the other; a round trip has its clients on both. The hive is loaded with 256 routes,
256 VPN rules and 1 000 nodes (``design.md §7``). Each part takes less than a minute.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal

from .clients.fleet import ClientFailed, ClientProcess, Fleet
from .clients.nats import NatsServer, find_nats
from .clients.procs import cpu_by_thread, descendants, growth
from .harness import (
    Figure,
    at_least,
    at_most,
    cpus,
    interleave,
    median_ratio,
    note,
    options,
)

__all__ = ["PARTS"]

NODES, ROUTES, VPNS = 1000, 256, 256
REPEATS = 3
Way = Literal["routed", "raw", "nats"]


class Stand:
    """A loaded router, perhaps a NATS server, and client processes to use them.

    Args:
        bench_nodes: how many nodes the measurement itself connects; the crowd is smaller by that many.
        planes: ``together`` or ``apart``.
    """

    def __init__(self, *, bench_nodes: int, planes: str | None = None) -> None:
        self.fleet = Fleet()
        self.cpus = cpus()
        self._folder = tempfile.TemporaryDirectory(prefix="fluxbee-bench-")
        self._raw = 0
        self._nats: NatsServer | None = None
        self._planes = planes or options().planes
        self._crowd = max(0, options().scaled(NODES) - bench_nodes)
        self.address = ""
        self.hive = ""
        self.program_pids: list[int] = []

    def __enter__(self) -> Stand:
        try:
            self._start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _start(self) -> None:
        wanted = options()
        argv = ["-m", "tests.bench.clients.hive", "--router", wanted.router, "--planes", self._planes]
        argv += ["--nodes", str(self._crowd), "--routes", str(ROUTES), "--vpns", str(VPNS)]
        argv += ["--cpu", str(self.cpus.program)]
        argv += ["--command", wanted.command] if wanted.command else []
        started = self.fleet.start(argv, label="hive").hear(90)
        self.address, self.hive = str(started["socket"]), str(started["hive"])
        self.program_pids = descendants(_int(started, "pid"))
        if wanted.router == "pump":
            note("measured against the throw-away pump, not the router")
        program = find_nats(wanted.nats)
        if program is None:
            note("nats-server is not installed: its baselines are missing")
        else:
            self._nats = NatsServer(program, cpu=self.cpus.program).__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fleet.__exit__(kind, error, trace)
        if self._nats is not None:
            self._nats.__exit__(None, None, None)
        self._folder.cleanup()

    @property
    def ways(self) -> list[Way]:
        """The ways that can be measured here."""
        return ["routed", "raw", "nats"] if self._nats is not None else ["routed", "raw"]

    def node(
        self, name: str, way: Way = "routed", *, cpu: int | None = None, subjects: Sequence[str] = ()
    ) -> ClientProcess:
        """A client process with one link, by the router or by NATS."""
        return self.nodes([name], way, cpu=cpu, subjects=subjects)

    def nodes(
        self, names: list[str], way: Way = "routed", *, cpu: int | None = None, subjects: Sequence[str] = ()
    ) -> ClientProcess:
        """A client process with one link per name."""
        client = self.fleet.client(f"{way} {names[0]}", cpu=self.cpus.clients if cpu is None else cpu)
        self.connect(client, names, way, subjects=subjects)
        return client

    def connect(
        self, client: ClientProcess, names: list[str], way: Way = "routed", *, subjects: Sequence[str] = ()
    ) -> None:
        """Open the links of ``client``."""
        pairs = [(str(uuid.uuid4()), name) for name in names]
        if way == "nats":
            assert self._nats is not None
            # A subject is one word per name: what routes by exact name is compared with an exact subject.
            client.ask("open", kind="nats", address=self._nats.address, nodes=pairs, subjects=list(subjects))
        else:
            client.ask("open", kind="flux", address=self.address, nodes=pairs)

    def raw_pair(
        self, one: str, other: str, *, other_cpu: int | None = None
    ) -> tuple[ClientProcess, ClientProcess]:
        """Two client processes with a Unix socket between them and nothing else."""
        self._raw += 1
        path = str(Path(self._folder.name) / f"raw{self._raw}.sock")
        a = self.fleet.client(f"raw {one}", cpu=self.cpus.clients)
        b = self.fleet.client(f"raw {other}", cpu=self.cpus.clients if other_cpu is None else other_cpu)
        b.tell("open", kind="raw-listen", address=path, nodes=[(str(uuid.uuid4()), other)])
        b.hear()
        a.ask("open", kind="raw-connect", address=path, nodes=[(str(uuid.uuid4()), one)])
        b.hear()
        return a, b

    def full(self, name: str) -> str:
        """The name that others send to."""
        return f"{name}@{self.hive}"


class Flow:
    """Senders and receivers of one way, and how fast messages get from these to those."""

    def __init__(
        self,
        way: Way,
        senders: list[ClientProcess],
        receivers: list[ClientProcess],
        to: list[str],
        *,
        target: str | None = None,
        deliveries: int = 1,
    ) -> None:
        self.way = way
        self.senders = senders
        self.receivers = receivers
        self.to = to
        self.target = target
        self.deliveries = deliveries

    def measure(self, count: int, per_write: int, shape: tuple[object, ...]) -> float:
        """Delivered messages per second; ``count`` messages per sender.

        Raises:
            ClientFailed: not everything that was sent was delivered, or not in the order of sending.
        """
        for sender in self.senders:
            extra = {"target": self.target, "dst": ["broadcast"]} if self.target else {}
            sender.tell("prepare", to=self.to, count=count, per_write=per_write, shape=shape, **extra)
        for sender in self.senders:
            sender.hear(60)
        expected = count * len(self.senders) * self.deliveries // len(self.receivers)
        for receiver in self.receivers:
            receiver.tell("receive", expect=expected)
        at_ns = time.monotonic_ns() + 20_000_000
        for sender in self.senders:
            sender.tell("send", at_ns=at_ns)
        sent = [sender.hear(60) for sender in self.senders]
        got = [receiver.hear(60) for receiver in self.receivers]
        self._verify(got, expected)
        took_ns = max(_int(one, "last_ns") for one in got) - min(_int(one, "began_ns") for one in sent)
        return expected * len(self.receivers) / (took_ns / 1e9)

    def _verify(self, got: list[dict[str, object]], expected: int) -> None:
        for answer in got:
            if answer["messages"] != expected or answer["disordered"]:
                raise ClientFailed(
                    f"{self.way}: {answer['messages']} of {expected} messages arrived, "
                    f"{answer['disordered']} samples out of order, notices {answer['notices']}"
                )


def _int(answer: dict[str, object], key: str) -> int:
    value = answer[key]
    assert isinstance(value, int)
    return value


def _compare(
    stand: Stand,
    name: str,
    flows: dict[Way, Flow],
    count: int,
    per_write: int,
    shape: tuple[object, ...],
    goal: float | None = None,
) -> list[Figure]:
    """One measurement by every way: a figure against each baseline, and what a message costs the program.

    The cost is CPU time, which a busy machine changes little where it halves a rate.
    """
    cost_us: list[float] = []

    def run(flow: Flow) -> float:
        before = cpu_by_thread(stand.program_pids)
        rate = flow.measure(count, per_write, shape)
        if flow.way == "routed":
            used_ns = growth(before, cpu_by_thread(stand.program_pids))
            cost_us.append(used_ns / 1000 / (count * len(flow.senders) * flow.deliveries))
        return rate

    results = interleave({way: partial(run, flow) for way, flow in flows.items()}, REPEATS)
    rate = statistics.median(results["routed"])
    figures: list[Figure] = []
    baselines: tuple[Way, ...] = ("raw", "nats")
    for way in baselines:
        if way in results:
            figures.append(
                at_least(
                    f"{name} | {'raw sockets' if way == 'raw' else 'nats-server'}",
                    rate,
                    "msg/s",
                    None if figures else goal,  # said once
                    baseline=statistics.median(results[way]),
                    ratio=median_ratio(results["routed"], results[way]),
                )
            )
    if not figures:
        figures.append(at_least(name, rate, "msg/s", goal))
    return [*figures, at_most(f"{name}: CPU of the program per message", statistics.median(cost_us), "µs")]


def _one_to_one(stand: Stand) -> dict[Way, Flow]:
    flows: dict[Way, Flow] = {}
    for way in stand.ways:
        if way == "raw":
            sender, receiver = stand.raw_pair("AI.s00", "AI.r00")
        else:
            receiver = stand.node(_name("AI.r00", way, stand), way)
            sender = stand.node(_name("AI.s00", way, stand), way)
        flows[way] = Flow(way, [sender], [receiver], [stand.full("AI.r00")])
    return flows


def _name(name: str, way: Way, stand: Stand) -> str:
    """How a client introduces itself: NATS has no hive that completes a name."""
    return stand.full(name) if way == "nats" else name


SMALL = (0, 350, 0)


def _throughput(planes: str) -> list[Figure]:
    goals = {16: 400_000.0, 1: 300_000.0}
    count = options().scaled(150_000, least=640, multiple=64)
    figures: list[Figure] = []
    with Stand(bench_nodes=2, planes=planes) as stand:
        flows = _one_to_one(stand)
        for per_write in (1, 4, 16, 64):
            figures += _compare(
                stand,
                f"1→1, 350 B, {per_write}/write",
                flows,
                count,
                per_write,
                ("io", 350, 0),
                goals.get(per_write),
            )
        routed: dict[Way, Flow] = {"routed": flows["routed"]}
        figures += _compare(stand, "1→1, 350 B with threads, 16/write", routed, count, 16, ("thread", 350, 0))
    return figures


def throughput() -> list[Figure]:
    """One sender, one recipient, 350-byte messages, by the number of frames per write."""
    return _throughput(options().planes)


def throughput_apart() -> list[Figure]:
    """The same with each plane in its own process."""
    return _throughput("apart")


def sizes() -> list[Figure]:
    """One sender, one recipient, 16 frames per write (4 of the largest), by size."""
    figures: list[Figure] = []
    with Stand(bench_nodes=2) as stand:
        flows = _one_to_one(stand)
        for label, shape, count, per_write in (
            ("16 B payload", ("io", 0, 16), 150_000, 16),
            ("4 KiB payload", ("io", 0, 4096), 40_000, 16),
            ("64 KiB payload", ("io", 0, 65_536), 3_000, 4),
        ):
            wanted = options().scaled(count, least=64, multiple=per_write)
            figures += _compare(stand, f"1→1, {label}, {per_write}/write", flows, wanted, per_write, shape)
    return figures


def fanout() -> list[Figure]:
    """Four senders to eight recipients, and one broadcast to a hundred."""
    figures: list[Figure] = []
    names = [f"AI.r{number:02}" for number in range(8)]
    with Stand(bench_nodes=12) as stand:
        flows: dict[Way, Flow] = {}
        for way in stand.ways:
            if way == "raw":
                continue  # four senders share no raw socket with eight recipients
            receivers = [stand.node(_name(name, way, stand), way) for name in names]
            senders = [stand.node(_name(f"AI.s{number:02}", way, stand), way) for number in range(4)]
            flows[way] = Flow(way, senders, receivers, [stand.full(name) for name in names])
        for per_write in (1, 4, 16, 64):
            count = options().scaled(40_000, least=512, multiple=512)
            figures += _compare(
                stand, f"4→8, 350 B, {per_write}/write", flows, count, per_write, ("io", 350, 0)
            )
    return figures + _broadcast()


def _broadcast() -> list[Figure]:
    with Stand(bench_nodes=101) as stand:
        flows: dict[Way, Flow] = {}
        subject = "AI.bc.all"
        for way in stand.ways:
            if way == "raw":
                continue
            receivers = [
                stand.nodes(
                    [_name(f"AI.bc.{number:02}", way, stand) for number in range(first, first + 25)],
                    way,
                    subjects=[subject],
                )
                for first in range(0, 100, 25)
            ]
            sender = stand.node(_name("AI.s00", way, stand), way)
            flows[way] = Flow(way, [sender], receivers, [subject], target="AI.bc.*", deliveries=100)
        count = options().scaled(3_000, least=32, multiple=16)
        return _compare(
            stand, "broadcast 1→100, 350 B, 16/write, deliveries", flows, count, 16, ("io", 350, 0)
        )


# Round trips.


def _trip(planes: str) -> list[Figure]:
    count = options().scaled(1_500, least=60)
    warm = 50
    pairs: dict[Way, tuple[ClientProcess, ClientProcess]] = {}
    medians: dict[Way, list[float]] = {}
    tails: dict[Way, list[float]] = {}
    with Stand(bench_nodes=2, planes=planes) as stand:
        for way in stand.ways:
            if way == "raw":
                pairs[way] = stand.raw_pair("AI.s00", "AI.r00", other_cpu=stand.cpus.program)
            else:
                pairs[way] = (
                    stand.node(_name("AI.s00", way, stand), way),
                    stand.node(_name("AI.r00", way, stand), way, cpu=stand.cpus.program),
                )

        def block(way: Way) -> float:
            a, b = pairs[way]
            a.ask("prepare", to=[stand.full("AI.r00")], count=count + warm, per_write=1, shape=("io", 350, 0))
            b.ask("prepare", to=[stand.full("AI.s00")], count=count + warm, per_write=1, shape=("io", 350, 0))
            b.tell("echo", count=count + warm, warm=warm)
            times = a.ask("ping", count=count, warm=warm, timeout_s=60)
            b.hear()
            medians.setdefault(way, []).append(_int(times, "p50_ns") / 1000)
            tails.setdefault(way, []).append(_int(times, "p99_ns") / 1000)
            return 0.0

        interleave({way: partial(block, way) for way in stand.ways}, 2 * REPEATS + 1)
    baselines: tuple[Way, ...] = ("raw", "nats")
    return [
        at_most(
            f"round trip {label}, 350 B | {'raw sockets' if way == 'raw' else 'nats-server'}",
            statistics.median(values["routed"]),
            "µs",
            baseline=statistics.median(values[way]),
            ratio=median_ratio(values["routed"], values[way]),
            most_ratio=most if way == "raw" else None,
        )
        for label, values, most in (("p50", medians, 4.0), ("p99", tails, 5.0))
        for way in baselines
        if way in values
    ]


def trip() -> list[Figure]:
    """A to B and back, through the router and without it, by the same two programs on two CPUs."""
    return _trip(options().planes)


def trip_apart() -> list[Figure]:
    """The same with each plane in its own process."""
    return _trip("apart")


# A stalled neighbour.


def stall() -> list[Figure]:
    """Nine fast recipients beside one that reads nothing, against the same ten all reading."""
    pairs = max(2, options().scaled(10))
    ticks = options().scaled(400, least=50)
    fast_names = [f"AI.f{number}" for number in range(9)]
    with Stand(bench_nodes=12) as stand:
        fast = stand.nodes(fast_names)
        slow = stand.node("AI.slow")
        sender = stand.node("AI.s00")
        stuffer = stand.fleet.client("stuffer", cpu=stand.cpus.clients)
        to = [stand.full(name) for name in [*fast_names, "AI.slow"]]
        refused: dict[str, int] = {}
        middles: list[float] = []

        def run(stalled: bool) -> float:
            if stalled:
                stand.connect(stuffer, ["AI.stuffer"])
                stuffer.ask("stuff", to=stand.full("AI.slow"), payload_bytes=65_536, limit=200)
            else:
                slow.tell("receive", expect=ticks)
            fast.tell("latency", expect=ticks * 9)
            paced = sender.ask("pace", to=to, ticks=ticks, tick_us=1000, shape=("io", 350, 0))
            times = fast.hear()
            if times["count"] != ticks * 9:
                raise ClientFailed(f"fast recipients got {times['count']} of {ticks * 9} messages")
            if stalled:
                slow.ask("drain")
                stuffer.ask("close")
                notices = paced["notices"]
                assert isinstance(notices, dict)
                for reason, number in notices.items():
                    refused[reason] = refused.get(reason, 0) + number
            else:
                slow.hear()
            middles.append(_int(times, "p50_ns") / 1000)
            return _int(times, "p99_ns") / 1000

        results = interleave({"stalled": lambda: run(True), "free": lambda: run(False)}, pairs)
        if not refused and options().router != "pump":
            note("the sender got no notice about the stalled recipient: it may not have been stalled")
    return [
        at_most(
            "p99 to nine recipients beside a stalled one | all ten reading",
            statistics.median(results["stalled"]),
            "µs",
            baseline=statistics.median(results["free"]),
            ratio=median_ratio(results["stalled"], results["free"]),
            most_ratio=1.1,
        ),
        at_most("p50 of all these runs", statistics.median(middles), "µs"),
    ]


def burst() -> list[Figure]:
    """20 000 plain writes to a recipient that is busy for 20 µs with each: nothing may be lost."""
    count = options().scaled(20_000, least=500)
    rates, lost = [], []
    with Stand(bench_nodes=2) as stand:
        receiver = stand.node("AI.r00")
        sender = stand.node("AI.s00")
        for _ in range(REPEATS):
            sender.ask("prepare", to=[stand.full("AI.r00")], count=count, per_write=1, shape=("io", 350, 0))
            receiver.tell("receive", expect=count, work_us=20)
            sent = sender.ask("send", timeout_s=60)
            got = receiver.hear(60)
            lost.append(count - _int(got, "messages"))
            rates.append(_int(got, "messages") / ((_int(got, "last_ns") - _int(sent, "began_ns")) / 1e9))
            sender.ask("drain")
    return [
        at_most(
            f"lost of {count} plain writes to a recipient busy 20 µs with each", float(max(lost)), "msg", 0
        ),
        at_least(
            "delivered meanwhile | what 20 µs each allow",
            statistics.median(rates),
            "msg/s",
            baseline=50_000.0,
        ),
    ]


PARTS: dict[str, Callable[[], list[Figure]]] = {
    "throughput": throughput,
    "throughput_apart": throughput_apart,
    "sizes": sizes,
    "fanout": fanout,
    "trip": trip,
    "trip_apart": trip_apart,
    "stall": stall,
    "burst": burst,
}
