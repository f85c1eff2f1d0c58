from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.keeper import protocol
from appliance.keeper.nodes_protocol import (
    LAUNCH_TOKEN_ENV,
    MAX_LAUNCH_BYTES,
    Claim,
    Claims,
    FollowNodes,
    ForgetNode,
    ListNodes,
    NodeEnded,
    NodeLaunch,
    NodeProcess,
    StartNode,
    StopNode,
    Unclaim,
    check_launch,
    claim_batches,
    page_of,
)
from appliance.keeper.protocol import Reply, decode_order, decode_request, encode, error_of
from appliance.sdk.managed import LAUNCH_TOKEN_ENV as SDK_TOKEN_ENV
from appliance.system.channel import MAX_PACKET_BYTES
from appliance.wire.errors import Conflict, Invalid


def launch(name: str = "AI.a@north", **changes) -> NodeLaunch:
    values = {
        "name": name,
        "unit": "fluxbee-node-AI.a-north",
        "argv": ("/bin/true",),
        "env": {"PATH": "/bin"},
        "cwd": "/",
        "log_dir": "/tmp/logs",
        **changes,
    }
    return NodeLaunch(**values)


def process(name: str, **changes) -> NodeProcess:
    values = {
        "unit": "u",
        "pid": 5,
        "state": "running",
        "started_at_ms": 1,
        "launch": launch(name),
        **changes,
    }
    return NodeProcess(name=name, **values)


@pytest.mark.parametrize(
    "request_",
    [
        StartNode(id=1, launch=launch(memory_bytes=1 << 20, pids=5, cpu_weight=10, user="nobody")),
        StopNode(id=2, name="AI.a@north", signal="SIGKILL", grace_s=2.5),
        ForgetNode(id=3, name="AI.a@north"),
        ListNodes(id=4, after="AI.a@north"),
        FollowNodes(id=5),
    ],
    ids=lambda one: type(one).__name__,
)
def test_requests_survive_the_way(request_: protocol.Request) -> None:
    assert decode_request(encode(request_)) == request_


def test_orders_survive_the_way() -> None:
    claim = Claim(name="AI.a@north", pid=7, token_sha256="ab", cgroup="/x")
    for order in (
        NodeEnded(process=process("AI.a@north")),
        Claims(claims=(claim,)),
        Unclaim(name="AI.a@north"),
    ):
        assert decode_order(encode(order)) == order


def test_keeper_and_sdk_mean_the_same_variable() -> None:
    assert LAUNCH_TOKEN_ENV == SDK_TOKEN_ENV


@pytest.mark.parametrize(
    "broken",
    [{"argv": ()}, {"unit": "../up"}, {"unit": "a/b"}, {"unit": ""}, {"log_bytes": 100}, {"pids": 0},
     {"memory_bytes": 0}, {"cpu_weight": 0}, {"stop_grace_s": -1}, {"name": "x"}],
    ids=str,
)  # fmt: skip
def test_a_launch_out_of_bounds_is_not_understood(broken: dict[str, object]) -> None:
    reply = decode_request(encode(StartNode(id=9, launch=launch(**broken))))
    assert isinstance(reply, Reply)
    assert (reply.id, reply.code) == (9, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "broken",
    [{"argv": ("sh",)}, {"cwd": "tmp"}, {"log_dir": "logs"}, {"argv": ("/bin/sh", "a\0b")},
     {"env": {"A=B": "c"}}, {"env": {"": "c"}}, {"env": {"A": "x\0"}},
     {"env": {"A": "x" * MAX_LAUNCH_BYTES}}],
    ids=lambda broken: str(broken)[:40],
)  # fmt: skip
def test_a_launch_that_cannot_be_is_refused(broken: dict[str, object]) -> None:
    check_launch(launch())
    with pytest.raises(Invalid):
        check_launch(launch(**broken))


def test_pages_hold_everybody_once_and_fit_into_packets() -> None:
    everybody = [process(f"AI.n{i:03}@north", launch=launch(env={"X": "y" * 3000})) for i in range(60)]
    seen: list[str] = []
    after, more, pages = "", True, 0
    while more:
        page = page_of(reversed(everybody), after)
        data = encode(Reply(id=2**31, result=msgspec.Raw(encode(page))))
        assert len(data) <= MAX_PACKET_BYTES
        seen += [one.name for one in page.nodes]
        after, more, pages = seen[-1], page.more, pages + 1
    assert seen == [one.name for one in everybody]
    assert pages > 2


def test_the_largest_launch_still_fits_into_a_page() -> None:
    large = launch(env={"X": "y" * (MAX_LAUNCH_BYTES - 400)})
    check_launch(large)
    page = page_of([process("AI.a@north", launch=large), process("AI.b@north", launch=large)], "")
    assert (len(page.nodes), page.more) == (1, True)
    assert len(encode(NodeEnded(process=page.nodes[0]))) <= MAX_PACKET_BYTES


@given(st.integers(0, 300))
def test_claims_come_in_packets(count: int) -> None:
    claims = [
        Claim(name=f"AI.{i}@" + "h" * 240, pid=i, token_sha256="a" * 64, cgroup="/" + "c" * 250)
        for i in range(count)
    ]
    batches = claim_batches(claims)
    assert [one for batch in batches for one in batch.claims] == claims
    assert all(len(encode(batch)) <= MAX_PACKET_BYTES for batch in batches)


def test_refusals_come_back_as_what_they_are() -> None:
    assert isinstance(error_of(Reply(id=1, code="NODE_RUNNING", message="m")), Conflict)
    assert isinstance(error_of(Reply(id=1, code="UNIT_RUNNING", message="m")), Conflict)
    found = error_of(Reply(id=1, code="LAUNCH_FAILED", message="cannot execute"))
    assert isinstance(found, Invalid)
    assert found.code == "LAUNCH_FAILED"
