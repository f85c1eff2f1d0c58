from __future__ import annotations

import os
import pwd
import signal
import sys
from collections.abc import Callable

import pytest

from appliance.keeper import node_child
from appliance.keeper.node_child import (
    Credentials,
    Launched,
    child_environment,
    credentials_of,
    launch_process,
)
from appliance.keeper.nodes_protocol import LAUNCH_TOKEN_ENV
from appliance.system.process import open_descriptors
from appliance.wire.errors import Busy, Invalid, Unavailable
from tests.unit.test_keeper_nodes_protocol import launch


def run(
    script: str, *, before_exec: Callable[[int], None] = lambda pid: None, limit: int | None = None, **changes
) -> Launched:
    order = launch(argv=("/bin/sh", "-c", script), **changes)
    return launch_process(
        order, {"A": "b"}, credentials=None, data_limit_bytes=limit, before_exec=before_exec
    )


def output(launched: Launched) -> tuple[bytes, int]:
    """Everything that it wrote, and how it ended."""
    os.set_blocking(launched.output, True)
    with os.fdopen(launched.output, "rb") as stream:
        text = stream.read()
    return text, os.waitstatus_to_exitcode(os.waitpid(launched.pid, 0)[1])


def test_it_runs_in_its_own_session_with_what_it_was_given() -> None:
    launched = run("echo out; echo err >&2; pwd; echo $A$HOME; exit 4", cwd="/usr")
    assert os.getsid(launched.pid) == launched.pid
    assert output(launched) == (b"out\nerr\n/usr\nb\n", 4)


def test_nothing_is_executed_before_everybody_was_told() -> None:
    seen: list[str] = []

    def told(pid: int) -> None:
        seen.append(os.readlink(f"/proc/{pid}/exe"))

    output(run("exit 0", before_exec=told))
    assert seen == [os.readlink("/proc/self/exe")]


def test_a_refusal_on_the_way_ends_the_child_and_leaves_no_descriptor() -> None:
    before, pids = open_descriptors(), []

    def refuse(pid: int) -> None:
        pids.append(pid)
        raise Busy("not now")

    with pytest.raises(Busy):
        run("exit 0", before_exec=refuse)
    assert open_descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[0], 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"argv": ("/no/such/program",)}, "cannot execute /no/such/program: No such file or directory"),
        ({"argv": ("/etc/passwd",)}, "cannot execute /etc/passwd: Permission denied"),
        ({"cwd": "/no/such/folder"}, "cannot enter /no/such/folder: No such file or directory"),
    ],
)
def test_what_the_system_refuses_is_told_with_step_and_reason(changes: dict, reason: str) -> None:
    before = open_descriptors()
    order = launch(**changes)
    with pytest.raises(Invalid) as refused:
        launch_process(order, {}, credentials=None, data_limit_bytes=None, before_exec=lambda pid: None)
    assert refused.value.message == reason
    assert refused.value.code == "LAUNCH_FAILED"
    assert open_descriptors() == before


def test_no_process_to_be_had_is_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()

    def none() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", none)
    with pytest.raises(Unavailable, match="temporarily"):
        run("exit 0")
    assert open_descriptors() == before


def test_no_descriptor_to_be_had_is_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    before, real, calls = open_descriptors(), os.pipe2, []

    def second_fails(flags: int) -> tuple[int, int]:
        calls.append(flags)
        if len(calls) == 2:
            raise OSError(24, "Too many open files")
        return real(flags)

    monkeypatch.setattr(os, "pipe2", second_fails)
    with pytest.raises(Unavailable, match="Too many"):
        run("exit 0")
    assert open_descriptors() == before


def test_a_program_that_takes_too_long_to_load_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_child, "_EXEC_TIMEOUT_S", 0.05)

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)

    with pytest.raises(Unavailable, match="within"):
        run("exit 0", before_exec=stop)


def test_a_child_killed_while_it_waits_has_exited() -> None:
    launched = run("exit 0", before_exec=lambda pid: os.kill(pid, signal.SIGKILL))
    assert output(launched) == (b"", -signal.SIGKILL)


def test_memory_can_be_limited_without_a_cgroup() -> None:
    text, _ = output(run("ulimit -d", limit=64 << 20))
    assert text == b"65536\n"


def test_signals_are_as_usual_again() -> None:
    code = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    order = launch(argv=(sys.executable, "-c", code))
    launched = launch_process(
        order, {}, credentials=None, data_limit_bytes=None, before_exec=lambda pid: None
    )
    assert output(launched) == (b"set()\n", 0)
    assert output(run("kill -PIPE $$; exit 3")) == (b"", -signal.SIGPIPE)


@pytest.mark.privileged
def test_a_user_is_taken_with_its_groups() -> None:
    nobody = pwd.getpwnam("nobody")
    credentials = credentials_of("nobody")
    assert credentials == Credentials(nobody.pw_uid, nobody.pw_gid, (nobody.pw_gid,))
    order = launch(argv=("/bin/sh", "-c", "id -u; id -G"))
    launched = launch_process(
        order,
        {"PATH": "/usr/bin:/bin"},
        credentials=credentials,
        data_limit_bytes=None,
        before_exec=lambda pid: None,
    )
    assert output(launched) == (f"{nobody.pw_uid}\n{nobody.pw_gid}\n".encode(), 0)


def test_users() -> None:
    assert credentials_of("") is None
    with pytest.raises(Invalid):
        credentials_of("nobody-of-that-name")


def test_the_environment_is_as_wanted_with_the_token() -> None:
    wanted = {"PATH": "/bin", "LD_LIBRARY_PATH": "/mine", "_MEIPASS2": "x", "_PYI_ARCHIVE_FILE": "y"}
    assert child_environment(wanted, "t", {}, frozen=False) == {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/mine",
        LAUNCH_TOKEN_ENV: "t",
    }


@pytest.mark.parametrize(
    ("wanted", "own", "path"),
    [
        ({}, {"LD_LIBRARY_PATH": "/bundle", "LD_LIBRARY_PATH_ORIG": "/b"}, None),
        ({"LD_LIBRARY_PATH": "/bundle"}, {"LD_LIBRARY_PATH": "/bundle", "LD_LIBRARY_PATH_ORIG": "/b"}, "/b"),
        ({"LD_LIBRARY_PATH": "/bundle"}, {"LD_LIBRARY_PATH": "/bundle"}, None),
        ({"LD_LIBRARY_PATH": "/mine"}, {"LD_LIBRARY_PATH": "/bundle", "LD_LIBRARY_PATH_ORIG": "/b"}, "/mine"),
    ],
)  # fmt: skip
def test_a_bundle_keeps_its_libraries_to_itself(
    wanted: dict[str, str], own: dict[str, str], path: str | None
) -> None:
    made = child_environment(wanted, "t", own, frozen=True)
    assert made.get("LD_LIBRARY_PATH") == path
    assert "LD_LIBRARY_PATH_ORIG" not in made


def test_a_child_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []

    def stuck(pid: int, options: int) -> tuple[int, int]:
        waited.append(options)
        return 0, 0

    def refuse(pid: int) -> None:
        raise Busy("no claim")

    real = os.waitpid
    monkeypatch.setattr(node_child, "_REAP_TIMEOUT_S", 0.01)
    monkeypatch.setattr(os, "waitpid", stuck)
    with pytest.raises(Busy):
        run("sleep 60", before_exec=refuse)
    assert set(waited) == {os.WNOHANG}
    monkeypatch.undo()
    assert os.waitstatus_to_exitcode(real(-1, 0)[1]) == -signal.SIGKILL
