"""The benchmarks' own machinery: a wrong count or a leaked process would make every number worthless."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import harness, idle, router
from tests.bench.__main__ import expand, main, measure, names
from tests.bench.clients import frames, procs, web
from tests.bench.clients.counting import FrameCounter, MessageCounter, NatsCounter
from tests.bench.clients.fleet import ROOT, ClientFailed, Fleet
from tests.bench.clients.hive import write_configuration
from tests.bench.clients.nats import find_nats
from tests.bench.harness import Figure, Options, at_least, at_most

SRC = "2f1c9a54-7f0e-4b7c-8a53-3f0d7b1f6a10"


@pytest.fixture(autouse=True)
def default_options() -> Iterator[None]:
    harness.set_options(Options())
    harness.take_notes()
    yield
    harness.set_options(Options())
    harness.take_notes()


# Figures.


def test_a_percentile_lies_between_its_neighbours() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert harness.percentile(values, 0) == 1.0
    assert harness.percentile(values, 0.5) == 2.5
    assert harness.percentile(values, 1) == 4.0
    with pytest.raises(ValueError):
        harness.percentile([], 0.5)


@given(st.lists(st.floats(0, 1e9), min_size=1), st.floats(0, 1))
def test_a_percentile_is_within_its_values(values: list[float], share: float) -> None:
    assert min(values) <= harness.percentile(values, share) <= max(values)


def test_interleaving_takes_turns_and_turns_round() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    results = harness.interleave({"a": lambda: way("a"), "b": lambda: way("b")}, 3)
    assert "".join(order) == "abbaab"
    assert results == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_the_median_ratio_is_of_pairs() -> None:
    assert harness.median_ratio([10, 1, 30], [5, 1, 10]) == 2.0
    with pytest.raises(ValueError):
        harness.median_ratio([1], [1, 2])


@pytest.mark.parametrize(
    ("figure", "ok", "goal"),
    [
        (at_least("n", 10, "1/s", 10), True, "≥ 10 1/s"),
        (at_least("n", 9, "1/s", 10), False, "≥ 10 1/s"),
        (at_least("n", 9, "1/s"), None, None),
        (at_most("n", 10, "s", 10), True, "≤ 10 s"),
        (at_most("n", 11, "s", 10), False, "≤ 10 s"),
        (at_most("n", 40, "µs", baseline=10, most_ratio=4), True, "≤ 4 × baseline"),
        (at_most("n", 41, "µs", baseline=10, most_ratio=4), False, "≤ 4 × baseline"),
        (at_most("n", 41, "µs", most_ratio=4), None, "≤ 4 × baseline"),
    ],
)
def test_goals(figure: Figure, ok: bool | None, goal: str | None) -> None:
    assert (figure.ok, figure.goal) == (ok, goal)


def test_a_ratio_comes_from_the_baseline_unless_given() -> None:
    assert at_least("n", 30, "1/s", baseline=10).ratio == 3
    assert at_least("n", 30, "1/s", baseline=10, ratio=2.5).ratio == 2.5
    assert at_least("n", 30, "1/s", baseline=0).ratio is None


def test_the_table_shows_every_figure_and_marks_the_missed() -> None:
    shown = harness.table(
        [at_least("fast", 1234567.0, "msg/s", 2e6, baseline=1e6), at_most("x", 0.12345, "s")]
    )
    assert "1,234,567 msg/s" in shown
    assert "MISSED" in shown
    assert "0.1235 s" in shown
    assert len({line.index("–") for line in shown.splitlines() if "0.1235" in line}) == 1


def test_scaled_counts_stay_whole_batches() -> None:
    assert Options(scale=0.1).scaled(150_000, multiple=64) % 64 == 0
    assert Options(scale=0.0001).scaled(1000, least=50) == 50
    assert Options().scaled(1000) == 1000


def test_pinning_ends_with_its_block() -> None:
    before = os.sched_getaffinity(0)
    chosen = harness.cpus()
    with harness.pinned(chosen.clients):
        assert os.sched_getaffinity(0) == {chosen.clients}
    assert os.sched_getaffinity(0) == before
    with harness.pinned(None):
        assert os.sched_getaffinity(0) == before
    if len(before) > 1:
        assert chosen.program != chosen.clients


def test_compiled_modules_are_kept_within_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    with harness.compiled(tmp_path):
        assert os.environ["PYTHONPYCACHEPREFIX"] == str(tmp_path)
        assert "PYTHONDONTWRITEBYTECODE" not in os.environ
    assert os.environ["PYTHONDONTWRITEBYTECODE"] == "1"
    assert "PYTHONPYCACHEPREFIX" not in os.environ


def test_the_machine_is_described() -> None:
    machine = harness.describe_machine()
    assert machine.cpu
    assert machine.memory_gib > 0


def test_a_note_is_made_once() -> None:
    harness.note("no rival here")
    harness.note("no rival here")
    assert harness.take_notes() == ["no rival here"]
    assert harness.take_notes() == []


# Messages.

SHAPES = [
    frames.Shape("io", 350, 0),
    frames.Shape("thread", 350, 0),
    frames.Shape("io", 0, 16),
    frames.Shape("io", 0, 4096),
    frames.Shape("thread", 0, 65_536),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_messages_have_their_size_and_are_unlike_each_other(shape: frames.Shape) -> None:
    made = list(frames.messages(SRC, ["AI.a@h", "AI.b@h"], 40, shape))
    parsed = [json.loads(body) for body in made]
    assert len({len(body) for body in made}) == 1
    if shape.whole_bytes:
        assert len(made[0]) == shape.whole_bytes
    else:
        payload = made[0][made[0].index(b'"payload":') + len(b'"payload":') : -1]
        assert len(payload) == shape.payload_bytes
    traces = {message["routing"]["trace_id"] for message in parsed}
    assert len(traces) == 40
    assert all(str(uuid.UUID(trace)) == trace for trace in traces)
    assert [message["routing"]["dst"] for message in parsed] == ["AI.a@h", "AI.b@h"] * 20
    assert all(message["meta"]["type"] == "user" for message in parsed)
    assert [frames.sequence_of(body)[1] for body in made] == list(range(40))  # type: ignore[index]


def test_a_thread_has_eight_turns_and_a_message_id_one() -> None:
    threads = [
        json.loads(body)["meta"]["thread_id"]
        for body in frames.messages(SRC, ["AI.a@h"], 80, frames.Shape("thread", 350, 0))
    ]
    assert {threads.count(one) for one in threads} == {8}
    assert threads[0] != threads[1]
    assert len(threads[0]) == len("thread:sha256:") + 64
    ids = [
        json.loads(body)["meta"]["context"]["io"]["message"]["id"]
        for body in frames.messages(SRC, ["AI.a@h"], 80, frames.Shape("io", 350, 0))
    ]
    assert len(set(ids)) == 80


def test_two_runs_share_no_trace_id() -> None:
    shape = frames.Shape("io", 350, 0)
    one, other = (next(frames.messages(SRC, ["AI.a@h"], 1, shape)) for _ in range(2))
    assert frames.sequence_of(one) != frames.sequence_of(other)


def test_a_broadcast_names_its_target() -> None:
    (body,) = frames.messages(SRC, ["broadcast"], 1, frames.Shape("io", 350, 0), target="AI.bc.*")
    message = json.loads(body)
    assert (message["routing"]["dst"], message["meta"]["target"]) == ("broadcast", "AI.bc.*")


def test_a_payload_too_small_for_an_object_is_an_error() -> None:
    with pytest.raises(ValueError, match="no JSON object"):
        next(frames.messages(SRC, ["AI.a@h"], 1, frames.Shape("io", 0, 4)))


def test_batches_hold_what_they_should() -> None:
    batches = frames.in_batches(iter([b"a", b"bb", b"c"]), 2)
    assert batches == [b"\0\0\0\1a\0\0\0\2bb", b"\0\0\0\1c"]


def test_sequences_are_only_read_from_ours() -> None:
    assert frames.sequence_of(b'{"routing":{}}') is None
    assert frames.sequence_of(b'{"trace_id":"not-one-of-ours-at-all-0000000000000"}') is None


# Counting.


def feed(counter: MessageCounter, data: bytes, cuts: Iterator[int]) -> None:
    at = 0
    while at < len(data):
        part = data[at : at + max(1, next(cuts))]
        room = counter.room()
        part = part[: len(room)]
        room[: len(part)] = part
        counter.took(len(part))
        at += len(part)


def bodies(sizes: list[int]) -> list[bytes]:
    return [
        b'{"routing":{"trace_id":"00000000-0000-4000-8000-%012x"},"meta":{"type":"user"},"p":"%b"}'
        % (number, b"x" * size)
        for number, size in enumerate(sizes)
    ]


@given(
    st.lists(st.sampled_from([0, 0, 0, 1, 255, 256, 300]), max_size=60),
    st.lists(st.integers(1, 700), min_size=1, max_size=30),
)
def test_any_fragmentation_counts_the_same(sizes: list[int], cuts: list[int]) -> None:
    sent = bodies(sizes)
    counter = FrameCounter(4096)
    feed(counter, b"".join(frames.frame(body) for body in sent), itertools.cycle(cuts))
    assert (counter.messages, counter.other, counter.disordered) == (len(sent), 0, 0)
    assert counter.message_bytes == counter.bytes == sum(len(body) + 4 for body in sent)


@given(st.integers(0, 300), st.lists(st.integers(1, 3000), min_size=1, max_size=10))
def test_nats_lines_are_counted_too(count: int, cuts: list[int]) -> None:
    sent = b"".join(b"MSG AI.a@h 1 %d\r\n%b\r\n" % (len(body), body) for body in bodies([20] * count))
    counter = NatsCounter(8192)
    feed(counter, b"PING\r\n" + sent + b"+OK\r\n", itertools.cycle(cuts))
    assert (counter.messages, counter.other) == (count, 2)


def test_frames_of_one_length_are_counted_at_a_stride_but_looked_at() -> None:
    sent = b"".join(frames.frame(body) for body in bodies([50] * 1000))
    counter = FrameCounter()
    feed(counter, sent, itertools.repeat(1 << 20))
    assert counter.messages == 1000
    assert counter.samples < 5


def test_a_length_that_lies_in_the_middle_of_a_run_is_not_overlooked() -> None:
    good = frames.frame(bodies([50])[0])
    run = bytearray(good * 9)
    middle = 4 * len(good)
    run[middle : middle + 4] = (2 * len(good) - 4).to_bytes(4, "big")  # swallows its neighbour
    counter = FrameCounter()
    feed(counter, bytes(run), itertools.repeat(1 << 20))
    assert counter.messages == 8


def test_notices_are_told_from_messages() -> None:
    notice = (
        b'{"routing":{},"meta":{"type":"system","msg":"UNREACHABLE"},"payload":{"reason":"NODE_CONGESTED"}}'
    )
    counter = FrameCounter()
    feed(counter, frames.frame(notice) * 3 + frames.frame(bodies([1])[0]), itertools.repeat(1 << 20))
    assert (counter.messages, counter.other, counter.notices) == (1, 3, {"NODE_CONGESTED": 3})


def test_disorder_is_seen() -> None:
    one, two = bodies([1, 2])
    counter = FrameCounter()
    feed(counter, frames.frame(two) + frames.frame(one), itertools.repeat(1 << 20))
    assert counter.disordered == 1


# Processes.


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.process
def test_clients_are_reaped_also_when_the_measurement_fails() -> None:
    pids: list[int] = []

    def fail() -> None:
        with Fleet() as fleet:
            pids.extend(fleet.client(f"c{number}").pid for number in range(3))
            raise RuntimeError("the measurement failed")

    with pytest.raises(RuntimeError, match="the measurement failed"):
        fail()
    assert all(gone(pid) for pid in pids)


@pytest.mark.process
def test_what_goes_wrong_in_a_client_is_raised_here() -> None:
    with Fleet() as fleet:
        client = fleet.client("c")
        with pytest.raises(ClientFailed, match="open: FileNotFoundError"):
            client.ask("open", kind="flux", address="/nowhere.sock", nodes=[(SRC, "AI.a")])
        with pytest.raises(ClientFailed, match="did not answer"):
            client.hear(0.05)
        client.process.kill()
        with pytest.raises(ClientFailed, match="has died"):
            client.hear(5)


@pytest.mark.process
def test_messages_through_the_pump_are_counted_one_by_one(tmp_path: Path) -> None:
    with Fleet() as fleet:
        pump = fleet.start(["-S", "-E", "-m", "tests.bench.clients.pump", str(tmp_path / "p")], label="pump")
        address = str(pump.hear()["socket"])
        a, b = fleet.client("a"), fleet.client("b")
        (name,) = b.ask("open", kind="flux", address=address, nodes=[(str(uuid.uuid4()), "AI.b")])["names"]  # type: ignore[misc]
        a.ask("open", kind="flux", address=address, nodes=[(str(uuid.uuid4()), "AI.a")])
        a.ask("prepare", to=[name], count=1000, per_write=7, shape=("io", 350, 0))
        b.tell("receive", expect=1000)
        sent = a.ask("send")
        got = b.hear()
        assert (got["messages"], got["disordered"], got["bytes"]) == (1000, 0, 354 * 1000)
        assert int(got["last_ns"]) >= int(sent["began_ns"])  # type: ignore[call-overload]
        # One that is missing is missed, within the quiet time.
        b.tell("receive", expect=1001, quiet_s=0.2)
        a.ask("send")
        assert b.hear()["messages"] == 1000


@pytest.mark.process
@pytest.mark.parametrize("part", ["throughput", "trip", "burst"])
def test_every_kind_of_router_measurement_runs(part: str) -> None:
    harness.set_options(Options(router="pump", scale=0.005, nats=""))
    figures, failure = measure(part, router.PARTS[part])
    assert failure is None
    assert figures
    assert all(figure.value >= 0 for figure in figures)
    assert "measured against the throw-away pump, not the router" in harness.take_notes()


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("part", ["sizes", "fanout", "stall"])
def test_the_other_router_measurements_run(part: str) -> None:
    harness.set_options(Options(router="pump", scale=0.005, nats=""))
    figures, failure = measure(part, router.PARTS[part])
    assert failure is None
    assert figures


@pytest.mark.process
@pytest.mark.slow
def test_lost_messages_fail_the_measurement() -> None:
    harness.set_options(Options(router="pump", scale=0.005, nats=""))
    with router.Stand(bench_nodes=2) as stand:
        receiver = stand.node("AI.r00")
        flow = router.Flow("routed", [stand.node("AI.s00")], [receiver], ["AI.nobody@bench"])
        receiver.tell("receive", expect=1, quiet_s=0.05)
        receiver.hear()
        with pytest.raises(ClientFailed, match="0 of 64 messages arrived"):
            flow.measure(64, 16, ("io", 350, 0))


@pytest.mark.process
@pytest.mark.slow
def test_the_real_program_can_be_put_on_the_stand() -> None:
    harness.set_options(Options(scale=0.02, nats=""))
    with router.Stand(bench_nodes=2) as stand:
        receiver, sender = stand.node("AI.r00"), stand.node("AI.s00")
        flow = router.Flow("routed", [sender], [receiver], [stand.full("AI.r00")])
        assert flow.measure(640, 16, ("io", 350, 0)) > 0
        hive = stand.fleet.processes[0].pid
        below = procs.descendants(hive)
        assert len(below) > 2
    deadline = time.monotonic() + 10
    while not all(gone(pid) for pid in below) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert all(gone(pid) for pid in below)


def test_the_configuration_of_the_stand_is_what_it_says(tmp_path: Path) -> None:
    path = write_configuration(tmp_path, planes="apart", routes=256, vpns=256, admin_port=1)
    hive = yaml.safe_load(path.read_text())
    rules = yaml.safe_load((tmp_path / "etc" / "sy-config-routes.yaml").read_text())
    assert (hive["planes"], hive["root"]) == ("apart", str(tmp_path))
    assert (len(rules["routes"]), len(rules["vpns"])) == (256, 256)
    assert len({route["prefix"] for route in rules["routes"]}) == 256
    assert len({rule["pattern"] for rule in rules["vpns"]}) == 256


def test_nats_is_left_out_on_request_and_taken_where_it_is() -> None:
    assert find_nats("") is None
    assert find_nats("/opt/nats-server") == "/opt/nats-server"


# Idle.


@pytest.mark.process
def test_a_process_tree_is_followed_to_its_leaves() -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import os,sys; os.fork(); sys.stdin.read()"], stdin=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 10
        while len(procs.descendants(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        found = procs.descendants(process.pid)
        used = idle.usage(process.pid)
        assert process.stdin is not None
        process.stdin.close()
    assert found[0] == process.pid
    assert (len(found), used.processes, used.threads) == (2, 2, 2)
    assert used.pss_bytes > 100_000
    assert all(count > 0 for count in used.cpu_ns.values())


@pytest.mark.process
def test_a_process_stays_on_its_cpu() -> None:
    cpu = min(os.sched_getaffinity(0))
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        procs.pin(process.pid, cpu)
        assert os.sched_getaffinity(process.pid) == {cpu}
        assert process.stdin is not None
        process.stdin.write(b"\n")


# HTTP.


@pytest.mark.parametrize("cut", [1, 7, 4096])
def test_an_answer_is_read_whole_however_it_comes(cut: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nX-A: b\r\n\r\n" + b"x" * 5000
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as pool:

        def answered() -> bytes:
            asked = theirs.recv(4096)
            for at in range(0, len(answer), cut):
                theirs.sendall(answer[at : at + cut])
            return asked

        serving = pool.submit(answered)
        client = web.WebClient()
        client.sock = ours
        got = client.do({"do": "get", "path": "/a", "count": 1})
        assert serving.result(5).startswith(b"GET /a HTTP/1.1\r\n")
    assert (got["count"], got["body_bytes"]) == (1, 5000)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
    ],
)
def test_what_is_no_whole_good_answer_is_an_error(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        client = web.WebClient()
        client.sock = ours
        assert "ValueError" in str(client.do({"do": "get", "path": "/", "count": 1})["error"])


def test_growth_is_counted_by_thread() -> None:
    assert procs.growth({1: 10, 2: 5}, {1: 14, 3: 2}) == 6
    assert procs.growth({1: 10}, {}) == 0


# The command line.


def test_every_benchmark_has_a_name_and_parts_are_spelled_out() -> None:
    known = names()
    assert "router.throughput" in known
    assert {"idle.apart", "admin.spawn", "admin.load"} <= set(known)
    assert not {"harness", "clients", "__main__"} & {name.partition(".")[0] for name in known}


def test_a_name_that_is_none_says_so() -> None:
    with pytest.raises(SystemExit, match="no benchmark"):
        list(expand("nonesuch"))
    with pytest.raises(SystemExit, match="no part"):
        list(expand("router.nonesuch"))


def test_a_failing_benchmark_is_an_error_and_not_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> list[Figure]:
        raise RuntimeError("broken")

    assert measure("x", fail) == ([], "x: RuntimeError: broken")
    assert "broken" in capfd.readouterr().err


@pytest.mark.process
def test_the_last_line_is_one_json_object(capfd: pytest.CaptureFixture[str]) -> None:
    status = main(["router.burst", "--router", "pump", "--scale", "0.03", "--nats", ""])
    report = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert status == 0
    assert report["bench"] == "router.burst"
    assert {"name", "value", "unit", "baseline", "ratio", "goal", "ok"} == set(report["figures"][0])
    assert report["machine"]["cpus"] >= 1
    assert report["errors"] == []
    assert (ROOT / "tests" / "bench").is_dir()
