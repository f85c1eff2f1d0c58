"""Real keepers with real node processes that misbehave."""

from __future__ import annotations

import json
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.keeper.node_hunt import TokenMint
from appliance.supervise.nodelog import read_tail
from appliance.system.cgroup import CgroupTree
from appliance.system.procfs import environment_of, process_entry, processes
from tests.router_kit import HIVE

pytestmark = pytest.mark.process

PATIENCE_S = 15.0
NAME = f"AI.a@{HIVE}"


def until(what: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """Ask again and again until there is an answer."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.01)
    return found


def alive(pid: int) -> bool:
    entry = process_entry(pid)
    return entry is not None and entry.alive


OURS = ("[fluxbee: started", "[fluxbee: ended")
"""Lines that the keeper writes into a node's log."""


class Box:
    """A keeper process and the way to talk to its supervising plane."""

    def __init__(self, directory: Path, *, cgroups: bool) -> None:
        self.directory = directory
        self.run = directory / "run"
        self.run.mkdir(exist_ok=True)
        self.mint = TokenMint(self.run)
        self.log = (directory / "keeper.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.keeper_nodes_program", str(self.run), str(int(cgroups))],
            stderr=self.log,
            start_new_session=True,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        def once() -> bytes:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
                connection.settimeout(PATIENCE_S)
                try:
                    connection.connect(str(self.run / "control.cmd"))
                    connection.sendall(json.dumps({"do": do, **arguments}).encode())
                    return connection.recv(65536)
                except (FileNotFoundError, ConnectionError):
                    return b""

        return json.loads(until(once))

    def launch(self, script: str, name: str = NAME, **more: Any) -> dict[str, Any]:
        """A Python script as a node; ``OUT`` in it is a directory of its own."""
        out = self.directory / name
        out.mkdir(exist_ok=True)
        code = f"import os, sys, time, signal\nOUT = {str(out)!r}\n" + textwrap.dedent(script)
        return {
            "name": name,
            "unit": f"unit-{name.partition('@')[0]}",
            "argv": [sys.executable, "-c", code],
            "env": {"PATH": "/usr/bin:/bin", "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": "1"},
            "cwd": "/",
            "log_dir": str(self.directory / "logs" / name),
            **more,
        }

    def start(self, script: str, name: str = NAME, **more: Any) -> dict[str, Any]:
        started = self.ask("start", launch=self.launch(script, name, **more))
        assert "error" not in started, started
        return started

    def ended(self, name: str = NAME) -> dict[str, Any]:
        """The event of the end of a node."""

        def look() -> dict[str, Any] | None:
            return next((one for one in self.ask("ended") if one["name"] == name), None)

        found: dict[str, Any] = until(look)
        return found

    def said(self, file: str, name: str = NAME) -> str:
        """What a node wrote into a file of its own."""
        path = self.directory / name / file

        def look() -> str:
            return path.read_text() if path.exists() else ""

        text: str = until(look)
        return text

    def tail(self, name: str = NAME, lines: int = 20) -> list[str]:
        """What the node itself printed."""
        found = read_tail(self.directory / "logs" / name, lines)
        return [line for line in found if not line.split(" ", 1)[1].startswith(OURS)]

    def statistics(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("status")["nodes"]
        return found

    def pid_of(self, plane: str) -> int:
        def look() -> int | None:
            planes = {one["name"]: one for one in self.ask("status")["planes"]}
            return planes[plane]["pid"] if planes[plane]["state"] == "ready" else None

        return int(until(look))

    def own_processes(self) -> list[int]:
        """Everybody alive who carries a token of this keeper."""
        return [
            one.pid
            for one in processes().values()
            if one.alive and any(each.startswith(self.mint.needle) for each in environment_of(one.pid))
        ]

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.log.close()


BOTH = pytest.mark.parametrize("kind", ["cgroup", "session"], indirect=True)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """How a node's processes are held together; where there are no cgroups it is always by session."""
    return str(getattr(request, "param", "cgroup"))


@pytest.fixture
def start(hive_folder: Path, kind: str) -> Iterator[Callable[[], Box]]:
    boxes: list[Box] = []

    def make() -> Box:
        box = Box(hive_folder, cgroups=kind == "cgroup")
        boxes.append(box)
        return box

    yield make
    for box in boxes:
        box.close()
    if boxes:
        _clear(boxes[0].mint)


def _clear(mint: TokenMint) -> None:
    for one in processes().values():
        if one.alive and any(each.startswith(mint.needle) for each in environment_of(one.pid)):
            os.kill(one.pid, signal.SIGKILL)
    tree = CgroupTree.open(f"fluxbee-{mint.mark}")
    if tree is not None:
        for unit in tree.units():
            tree.group(unit).kill()
            until(tree.group(unit).remove)
        tree.close()


@pytest.fixture
def box(start: Callable[[], Box]) -> Box:
    return start()


SLEEP = "print('up'); time.sleep(600)"
STUBBORN = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print('up')
    time.sleep(600)
"""
RUNAWAY = """
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open(OUT + '/away.new', 'w').write(str(os.getpid()))
            os.rename(OUT + '/away.new', OUT + '/away')
            time.sleep(600)
        os._exit(0)
    os.wait()
    time.sleep(600)
"""


# --- start and end ------------------------------------------------------------------------------------------


def test_a_node_that_exits_at_once_is_reported_once_and_remembered(box: Box) -> None:
    started = box.start("print('hello'); sys.stderr.write('bad\\n'); sys.exit(3)")
    assert started["state"] == "running"
    ended = box.ended()
    assert (ended["state"], ended["exit_code"], ended["exit_signal"]) == ("exited", 3, None)
    assert ended["pid"] is None
    assert ended["ended_at_ms"] >= ended["started_at_ms"]
    assert [line.split(" ", 1)[1] for line in box.tail()] == ["hello", "bad"]
    assert box.ask("nodes") == [ended]
    assert len(box.ask("ended")) == 1
    box.ask("forget", name=NAME)
    assert box.ask("nodes") == []


def test_what_a_node_gets(box: Box) -> None:
    box.start(
        """
        import json, resource
        fds = sorted(int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + fd))
        about = dict(fds=fds, session=os.getsid(0), pid=os.getpid(), stdin=os.readlink('/proc/self/fd/0'),
                     cwd=os.getcwd(), env=dict(os.environ),
                     soft=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                     blocked=list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
                     ignored=open('/proc/self/status').read().split('SigIgn:')[1].split()[0])
        open(OUT + '/new', 'w').write(json.dumps(about)); os.rename(OUT + '/new', OUT + '/about')
        time.sleep(600)
        """
    )
    about = json.loads(box.said("about"))
    assert about["fds"] == [0, 1, 2]
    assert about["session"] == about["pid"] == box.ask("nodes")[0]["pid"]
    assert about["stdin"] == "/dev/null"
    assert about["cwd"] == "/"
    assert about["blocked"] == []
    # What the interpreter of the node ignores itself, and the two that the C library keeps for its threads.
    theirs = (signal.SIGPIPE, signal.SIGXFSZ, 32, 33)
    assert int(about["ignored"], 16) & ~sum(1 << number - 1 for number in theirs) == 0
    assert about["soft"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert about["env"].pop("FLUXBEE_LAUNCH_TOKEN").startswith(box.mint.mark + ".")
    assert {"LEAK", "NOTIFY_SOCKET"}.isdisjoint(about["env"])


@pytest.mark.parametrize("what", ["missing", "not executable", "no program", "no folder", "no user"])
def test_what_cannot_be_executed_is_refused_with_the_reason(box: Box, tmp_path: Path, what: str) -> None:
    path = tmp_path / "start.sh"
    changes: dict[str, Any] = {"argv": [str(path)]}
    if what == "not executable":
        path.write_text("#!/bin/sh\n")
        path.chmod(0o644)
    elif what == "no program":
        path.write_text("#!/no/such/interpreter\n")
        path.chmod(0o755)
    elif what == "no folder":
        changes = {"cwd": str(tmp_path / "none")}
    elif what == "no user":
        changes = {"user": "nobody-of-that-name"}
    refused = box.ask("start", launch=box.launch(SLEEP, **changes))
    assert (refused["kind"], refused["error"]) == ("Invalid", "LAUNCH_FAILED"), refused
    reasons = {"not executable": "Permission denied", "no user": "no user"}
    assert reasons.get(what, "No such file") in refused["message"]
    assert box.ask("nodes") == []
    assert box.statistics()["start_failures"] == 1
    box.start(SLEEP)


def test_a_running_name_is_a_conflict(box: Box) -> None:
    first = box.start(SLEEP)
    refused = box.ask("start", launch=box.launch(SLEEP))
    assert (refused["kind"], refused["error"]) == ("Conflict", "NODE_RUNNING")
    assert box.ask("nodes")[0]["pid"] == first["pid"]
    assert box.ask("forget", name=NAME)["error"] == "NODE_RUNNING"


@pytest.mark.privileged
def test_a_node_with_a_user_has_that_users_rights_and_still_dies_with_the_keeper(box: Box) -> None:
    nobody = pwd.getpwnam("nobody")
    script = "echo $(id -u) $(id -g) $(id -G); exec sleep 600"
    box.start("", user="nobody", argv=["/bin/sh", "-c", script])
    text = until(box.tail)[0].split(" ", 1)[1]
    assert text == f"{nobody.pw_uid} {nobody.pw_gid} {nobody.pw_gid}"
    pid = box.ask("nodes")[0]["pid"]
    box.process.kill()
    until(lambda: not alive(pid))


# --- stop ---------------------------------------------------------------------------------------------------


@BOTH
def test_who_ignores_sigterm_is_killed_at_the_deadline(box: Box) -> None:
    pid = box.start(STUBBORN)["pid"]
    until(box.tail)
    assert box.ask("stop", name=NAME, grace_s=0.3)["state"] == "stopping"
    ended = box.ended()
    assert ended["exit_signal"] == signal.SIGKILL
    assert not alive(pid)
    assert box.statistics()["kills"] == 1


@BOTH
def test_sigterm_reaches_the_children_too_and_nobody_is_left(box: Box) -> None:
    box.start("import subprocess; subprocess.run(['sleep', '600'])")
    until(lambda: len(box.own_processes()) == 2)
    box.ask("stop", name=NAME)
    assert box.ended()["exit_signal"] == signal.SIGTERM
    assert box.own_processes() == []


def test_sigkill_does_not_wait(box: Box) -> None:
    box.start(STUBBORN)
    until(box.tail)
    box.ask("stop", name=NAME, signal="SIGKILL", grace_s=600)
    assert box.ended()["exit_signal"] == signal.SIGKILL


@BOTH
def test_who_forks_away_is_gone_after_the_stop(box: Box) -> None:
    box.start(RUNAWAY)
    away = int(box.said("away"))
    assert os.getsid(away) != box.ask("nodes")[0]["pid"]
    box.ask("stop", name=NAME)
    box.ended()
    assert not alive(away)
    assert box.statistics()["stragglers_killed"] >= 1


@BOTH
def test_when_a_node_crashes_what_it_left_is_gone_before_the_end_is_told(box: Box) -> None:
    crash = "while not os.path.exists(OUT + '/away'): time.sleep(0.01)\n    os._exit(5)\n"
    box.start(RUNAWAY.rstrip().removesuffix("time.sleep(600)") + crash)
    assert box.ended()["exit_code"] == 5
    assert not alive(int(box.said("away")))
    assert box.own_processes() == []


@BOTH
def test_a_clean_stop_of_the_keeper_ends_everybody_and_asks_first(box: Box) -> None:
    box.start(
        """
        def bye(*_):
            open(OUT + '/bye', 'w').write('asked'); sys.exit(0)
        signal.signal(signal.SIGTERM, bye); print('up'); time.sleep(600)
        """
    )
    box.start(RUNAWAY, f"AI.b@{HIVE}")
    away = int(box.said("away", f"AI.b@{HIVE}"))
    until(box.tail)
    assert box.stop() == 0
    assert box.said("bye") == "asked"
    assert not alive(away)
    assert box.own_processes() == []


def test_a_stubborn_node_does_not_hold_the_end_of_the_keeper(box: Box) -> None:
    box.start(STUBBORN, stop_grace_s=600)
    until(box.tail)
    assert box.stop() == 0
    assert box.own_processes() == []


@BOTH
def test_a_killed_keeper_takes_nodes_along_and_the_next_one_sweeps(start: Callable[[], Box]) -> None:
    first = start()
    pid = first.start(RUNAWAY)["pid"]
    away = int(first.said("away"))
    first.process.kill()
    until(lambda: not alive(pid))
    second = start()
    second.ask("nodes")
    until(lambda: not alive(away))
    assert second.statistics()["leftovers_swept"] >= 1
    second.start(SLEEP)


# --- log ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_flood_costs_the_keeper_little_and_the_ring_stays_bounded(box: Box) -> None:
    began = time.monotonic()
    box.start("while True: os.write(1, b'flooding the log\\n' * 4000)", log_bytes=200_000)
    until(lambda: box.statistics()["log_bytes_dropped"] > 8 << 20)
    statistics, passed_s = box.statistics(), time.monotonic() - began
    # What is beyond 4 MiB/s stays in the pipe: the node waits, not the keeper.
    assert statistics["log_pauses"] > 3
    assert statistics["log_bytes_dropped"] < (1 << 20) + (4 << 20) * passed_s + 65_536
    assert statistics["log_bytes_written"] < (1 << 20) + 65_536 * passed_s + 65_536
    assert sum(path.stat().st_size for path in (box.directory / "logs" / NAME).iterdir()) <= 200_000
    assert box.ask("nodes")[0]["log_dropped_bytes"] > 1 << 20
    box.ask("stop", name=NAME)
    assert box.ended()["log_dropped_bytes"] > 1 << 20
    assert any("bytes of output dropped here]" in line for line in box.tail(lines=10_000))


def test_a_log_that_cannot_be_written_does_not_hurt(box: Box, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    box.start("print('lost'); time.sleep(600)", log_dir=str(tmp_path / "file" / "below"))
    until(lambda: box.statistics()["log_write_errors"])
    assert box.ask("nodes")[0]["log_dropped_bytes"] > 0
    assert alive(box.ask("nodes")[0]["pid"])


def test_a_node_that_closes_its_output_lives_on_and_costs_nothing(box: Box) -> None:
    box.start("print('up'); os.close(1); os.close(2); open(OUT + '/shut', 'w').write('x'); time.sleep(600)")
    box.said("shut")
    before = box.ask("status")["statistics"]["turns"]
    time.sleep(0.3)
    assert box.ask("status")["statistics"]["turns"] - before < 10
    box.ask("stop", name=NAME)
    box.ended()


def test_silent_nodes_do_not_wake_the_keeper(box: Box) -> None:
    for number in range(10):
        box.start("time.sleep(600)", f"AI.n{number}@{HIVE}")
    before = box.ask("status")["statistics"]["turns"]
    time.sleep(0.5)
    assert box.ask("status")["statistics"]["turns"] - before < 10
    assert box.statistics()["running"] == 10


# --- limits -------------------------------------------------------------------------------------------------


@BOTH
def test_memory_has_a_limit(box: Box) -> None:
    box.start(
        """
        held = []
        try:
            while True:
                held.append(bytearray(4 << 20)); open(OUT + '/held', 'w').write(str(len(held) * 4))
                if len(held) > 200: os._exit(0)
        except MemoryError:
            os._exit(77)
        """,
        memory_bytes=128 << 20,
    )
    ended = box.ended()
    if box.statistics()["memory_limit"] == "cgroup":
        assert ended["oom_killed"]
        assert ended["exit_signal"] == signal.SIGKILL
    else:
        assert ended["exit_code"] == 77
    assert int(box.said("held")) <= 128


# --- planes come and go -------------------------------------------------------------------------------------


def test_nodes_outlive_the_control_plane_and_are_listed_by_the_next(box: Box) -> None:
    pid = box.start(SLEEP)["pid"]
    box.start("print('brief')", f"AI.b@{HIVE}")
    box.ended(f"AI.b@{HIVE}")
    plane = box.pid_of("control")
    os.kill(plane, signal.SIGKILL)
    until(lambda: box.pid_of("control") != plane)
    states = {one["name"]: (one["state"], one["pid"]) for one in box.ask("nodes")}
    assert states == {NAME: ("running", pid), f"AI.b@{HIVE}": ("exited", None)}
    assert alive(pid)
    box.ask("stop", name=NAME)
    assert box.ended()["exit_signal"] == signal.SIGTERM


SAY_HELLO = """
import json, socket, struct, sys, uuid
def hello(path, name, token=None):
    me = str(uuid.uuid4())
    payload = {"uuid": me, "name": name, "version": "1"}
    if token: payload["launch_token"] = token
    body = json.dumps({"routing": {"src": me, "dst": None, "ttl": 1, "trace_id": "t"},
                       "meta": {"type": "system", "msg": "HELLO"}, "payload": payload}).encode()
    s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(path)
    s.sendall(struct.pack(">I", len(body)) + body)
    answer = s.recv(65536)
    s.close()
    return "welcome" if b"ANNOUNCE" in answer else "refused"
"""


def greeting_node(box: Box) -> str:
    """A node that says HELLO itself and has a child do it, each without the token, and writes the answers."""
    path = str(box.run / "router.sock")
    return (
        SAY_HELLO
        + f"""
import subprocess
code = {SAY_HELLO!r} + "print(hello({path!r}, {NAME!r}), end='')"
clean = {{k: v for k, v in os.environ.items() if k != 'FLUXBEE_LAUNCH_TOKEN'}}
own = hello({path!r}, {NAME!r})
child = subprocess.run([sys.executable, '-c', code], env=clean, capture_output=True, text=True).stdout
open(OUT + '/new', 'w').write(own + ' ' + child); os.rename(OUT + '/new', OUT + '/said')
time.sleep(600)
"""
    )


def stranger_says(box: Box, token: str = "") -> str:
    code = SAY_HELLO + f"print(hello({str(box.run / 'router.sock')!r}, {NAME!r}, {token!r}), end='')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@BOTH
def test_a_supervised_name_belongs_to_the_node_and_its_children(box: Box) -> None:
    node = box.start(greeting_node(box))
    assert box.said("said") == "welcome welcome"
    assert stranger_says(box) == "refused"
    assert stranger_says(box, box.mint.token()) == "refused"
    (variable,) = [one for one in environment_of(node["pid"]) if box.mint.needle in one]
    assert stranger_says(box, variable.decode().partition("=")[2]) == "welcome"
    box.ask("stop", name=NAME)
    box.ended()
    assert stranger_says(box) == "refused"
    box.ask("forget", name=NAME)
    until(lambda: stranger_says(box) == "welcome")


def test_a_new_router_knows_the_claims_before_it_takes_anybody(box: Box) -> None:
    box.start(SLEEP)
    plane = box.pid_of("data")
    os.kill(plane, signal.SIGKILL)
    until(lambda: box.pid_of("data") != plane)
    assert stranger_says(box) == "refused"
    assert box.statistics()["claims_sent"] == 2
