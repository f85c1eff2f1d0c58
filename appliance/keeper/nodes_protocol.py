"""What planes and keeper say about node processes: launches, their state, their ends, who speaks for a name.

Part of the words of :mod:`appliance.keeper.protocol`. The keeper carries out and remembers; it never starts
a node again by itself. Everything fits into one packet: a launch is at most ``MAX_LAUNCH_BYTES`` of JSON,
so a page always holds at least one process. A launch token never appears here, only its SHA-256. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from appliance.keeper.numbers import RequestId
from appliance.wire.errors import Invalid
from appliance.wire.names import MAX_NAME_BYTES

__all__ = [
    "LAUNCH_FAILED",
    "LAUNCH_TOKEN_ENV",
    "MAX_LAUNCH_BYTES",
    "MAX_NODE_RECORDS",
    "NODE_RUNNING",
    "UNIT_RUNNING",
    "Claim",
    "Claims",
    "FollowNodes",
    "ForgetNode",
    "ListNodes",
    "NodeEnded",
    "NodeLaunch",
    "NodePage",
    "NodeProcess",
    "NodeStatistics",
    "StartNode",
    "StopNode",
    "StopSignal",
    "Unclaim",
    "check_launch",
    "claim_batches",
    "page_of",
]

LAUNCH_TOKEN_ENV = "FLUXBEE_LAUNCH_TOKEN"  # noqa: S105 - the name of a variable, not its value
"""Environment variable of a node with the secret of this very launch; the SDK carries it in HELLO."""

NODE_RUNNING = "NODE_RUNNING"
UNIT_RUNNING = "UNIT_RUNNING"
LAUNCH_FAILED = "LAUNCH_FAILED"
# Codes of refusals: a live process of that name; of that unit; the system would not execute it.

MAX_LAUNCH_BYTES = 40 * 1024
MAX_NODE_RECORDS = 1024
"""Processes that run, or ended and were not forgotten; one more is refused as ``Busy``."""

_PAGE_BYTES = 48 * 1024
_CLAIM_BATCH = 64  # a claim is at most 700 bytes of JSON

NodeName = Annotated[str, msgspec.Meta(min_length=3, max_length=MAX_NAME_BYTES)]
UnitName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_@:][A-Za-z0-9_.@:\-]{0,249}\Z")]
"""Names a folder in the cgroup tree, so it neither begins with a dot nor holds a slash."""
Bytes = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
StopSignal = Literal["SIGTERM", "SIGKILL"]
NodeState = Literal["running", "stopping", "exited"]


class NodeLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """How one node process is started.

    Attributes:
        name: full L2 name; one live process per name.
        unit: label for people and name of its cgroup.
        argv: program (a path) and arguments.
        env: the whole environment but the launch token, which the keeper adds.
        cwd: working directory.
        log_dir: where ``0.log`` and ``1.log`` go; made when missing.
        log_bytes: size of both together at most.
        user: whose rights the process gets; empty means those of the keeper.
        memory_bytes: limit by ``memory.max``, else by ``RLIMIT_DATA`` of each of its processes.
        pids: limit by ``pids.max``; without a cgroup there is none (``RLIMIT_NPROC`` counts a user's others).
        cpu_weight: 1 to 10000 by ``cpu.weight`` (100 is usual); without a cgroup it has no effect.
        stop_grace_s: time from SIGTERM to SIGKILL when the keeper itself stops, and the default of a stop.
    """

    name: NodeName
    unit: UnitName
    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    env: dict[str, str]
    cwd: str
    log_dir: str
    log_bytes: Annotated[int, msgspec.Meta(ge=8192)] = 1 << 20
    user: str = ""
    memory_bytes: Bytes | None = None
    pids: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cpu_weight: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    stop_grace_s: Seconds = 10.0


class NodeProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One node process as the keeper knows it; times are epoch milliseconds.

    ``serial`` grows with every start, so it tells processes of one name apart whatever the wall clock does.
    ``pid`` is ``None`` once it ended. ``exit_code`` and ``exit_signal`` exclude each other.
    ``log_dropped_bytes`` counts what the node wrote and the log did not keep.
    """

    name: str
    unit: str
    pid: int | None
    state: NodeState
    started_at_ms: int
    serial: int = 0
    ended_at_ms: int | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    oom_killed: bool = False
    log_dropped_bytes: int = 0
    launch: NodeLaunch


class StartNode(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="start_node"):
    """Plane → keeper: start a process. Answered with its :class:`NodeProcess` once it was executed."""

    id: RequestId = 0
    launch: NodeLaunch


class StopNode(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="stop_node"):
    """Plane → keeper: end a process; after ``grace_s`` (default: its launch's) what is left is killed."""

    id: RequestId = 0
    name: NodeName
    signal: StopSignal = "SIGTERM"
    grace_s: Seconds | None = None


class ForgetNode(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="forget_node"):
    """Plane → keeper: drop the record of a process that ended, and the claim on its name."""

    id: RequestId = 0
    name: NodeName


class ListNodes(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="list_nodes"):
    """Plane → keeper: which processes are there, by name, behind ``after``? Answer: :class:`NodePage`."""

    id: RequestId = 0
    after: str = ""


class FollowNodes(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="follow_nodes"):
    """Plane → keeper: from now on tell this plane about every end, until the plane itself ends."""

    id: RequestId = 0


class NodePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some processes in the order of their names; with ``more``, ask again behind the last one."""

    nodes: tuple[NodeProcess, ...]
    more: bool


class NodeEnded(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="node_ended"):
    """Keeper → following planes: this process and all that belonged to it are gone."""

    process: NodeProcess


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks for a supervised name.

    Attributes:
        name: full L2 name.
        pid: main process, which is also the leader of the node's session; 0 when it has ended.
        token_sha256: of the launch token, in hex.
        cgroup: path below the cgroup mount as ``/proc/<pid>/cgroup`` shows it; empty without one.
    """

    name: str
    pid: int
    token_sha256: str
    cgroup: str = ""


class Claims(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="claims"):
    """Keeper → routing plane: these names are supervised; each replaces an older claim on its name."""

    claims: tuple[Claim, ...]


class Unclaim(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="unclaim"):
    """Keeper → routing plane: this name is nobody's any more."""

    name: str


class NodeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of node processes since the keeper's start.

    ``group`` says how a node's processes are found: ``cgroup`` or ``session``; ``memory_limit`` how memory
    is limited: ``cgroup`` or ``rlimit``.
    """

    group: str = "session"
    memory_limit: str = "rlimit"
    running: int = 0
    records: int = 0
    starts: int = 0
    start_failures: int = 0
    stops: int = 0
    kills: int = 0
    stragglers_killed: int = 0
    lingering: int = 0
    oom_kills: int = 0
    leftovers_swept: int = 0
    events_sent: int = 0
    events_waiting: int = 0
    claims_sent: int = 0
    log_bytes_written: int = 0
    log_bytes_dropped: int = 0
    log_lines_cut: int = 0
    log_write_errors: int = 0
    log_pauses: int = 0


def check_launch(launch: NodeLaunch) -> None:
    """What the types do not say.

    Raises:
        Invalid: too large, no absolute path where one is needed, or text that the kernel cannot take.
    """
    if len(msgspec.json.encode(launch)) > MAX_LAUNCH_BYTES:
        raise Invalid(f"the launch of {launch.name} is larger than {MAX_LAUNCH_BYTES} bytes", field="launch")
    for field, path in (("argv", launch.argv[0]), ("cwd", launch.cwd), ("log_dir", launch.log_dir)):
        if not path.startswith("/"):
            raise Invalid(f"{field} of {launch.name} is not an absolute path: {path!r}", field=field)
    for text in (*launch.argv, launch.cwd, launch.log_dir, *launch.env, *launch.env.values()):
        if "\0" in text:
            raise Invalid(f"the launch of {launch.name} holds a NUL character", field="launch")
    if any(not name or "=" in name for name in launch.env):
        raise Invalid(f"the environment of {launch.name} has a name that is none", field="env")


def page_of(processes: Iterable[NodeProcess], after: str) -> NodePage:
    """The first page of ``processes`` behind the name ``after``, as large as a packet allows."""
    rest = sorted((one for one in processes if one.name > after), key=lambda one: one.name)
    size, taken = 0, 0
    for process in rest:
        size += len(msgspec.json.encode(process)) + 1
        if taken and size > _PAGE_BYTES:
            break
        taken += 1
    return NodePage(nodes=tuple(rest[:taken]), more=taken < len(rest))


def claim_batches(claims: Iterable[Claim]) -> list[Claims]:
    """All claims, in orders that each fit into a packet."""
    every = tuple(claims)
    return [Claims(claims=every[i : i + _CLAIM_BATCH]) for i in range(0, len(every), _CLAIM_BATCH)]
