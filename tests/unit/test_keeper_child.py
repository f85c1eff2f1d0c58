from __future__ import annotations

import json
import os
import select

import pytest

from appliance.keeper.child import exit_code_of, run_plane
from appliance.keeper.plane import PlaneContext
from appliance.system import log
from appliance.system.channel import Channel
from appliance.system.logsink import StreamSink
from appliance.system.process import ProcessExit, reap
from appliance.wire.errors import Invalid, Misconfigured


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(), 0),
        (SystemExit(4), 4),
        (SystemExit("a text"), 70),
        (Misconfigured("key"), 78),
        (ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [Misconfigured("key")])]), 78),
        (ExceptionGroup("g", [ValueError()]), 70),
        (Invalid("x"), 70),
        (KeyboardInterrupt(), 70),
    ],
)
def test_exceptions_have_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


def run_in_child(main, *, keeper_pid: int | None = None) -> tuple[ProcessExit, str]:
    """Run ``main`` as a plane; its exit and what it wrote to stderr."""
    ours, theirs = Channel.pair()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(write_end, 2)
            log.configure(format="json", sink=StreamSink(2))
            parent = keeper_pid or os.getppid()
            context = PlaneContext(name="test", channel=theirs, eventfds={}, keeper_pid=parent)
            run_plane(main, context, keep=[theirs.fileno()])
        finally:
            os._exit(99)
    os.close(write_end)
    theirs.close()
    text = b""
    while chunk := os.read(read_end, 65536):
        text += chunk
    os.close(read_end)
    pidfd = os.pidfd_open(pid)
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    ours.close()
    gone = reap(pid)
    assert gone is not None
    return gone, text.decode()


@pytest.mark.process
@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (78, 78), (256 + 3, 3)])
def test_the_result_is_the_exit_code(result, code) -> None:
    assert run_in_child(lambda context: result) == (ProcessExit(code), "")


@pytest.mark.process
def test_a_failure_leaves_its_trace() -> None:
    def main(context: PlaneContext) -> int:
        raise RuntimeError("broken in here")

    gone, text = run_in_child(main)
    assert gone == ProcessExit(70)
    record = json.loads(text)
    assert (record["service"], record["event"], record["code"]) == ("test", "plane_failed", "PLANE_FAILED")
    assert record["error"] == "RuntimeError: broken in here"
    assert "in main" in record["trace"]


@pytest.mark.process
def test_a_configuration_error_is_said_in_words() -> None:
    def main(context: PlaneContext) -> int:
        raise Misconfigured("hive.yaml: no such role")

    gone, text = run_in_child(main)
    assert gone == ProcessExit(78)
    record = json.loads(text)
    assert (record["event"], record["code"]) == ("misconfigured", "MISCONFIGURED")
    assert record["message"] == "hive.yaml: no such role"
    assert "trace" not in record


@pytest.mark.process
def test_nothing_runs_when_the_keeper_has_gone() -> None:
    def main(context: PlaneContext) -> int:
        os.write(2, b"ran")
        return 0

    gone, text = run_in_child(main, keeper_pid=1_999_999)
    assert gone == ProcessExit(70)
    assert "ProcessLookupError" in text
    assert "ran" not in text
