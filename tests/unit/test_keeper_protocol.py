from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.keeper import protocol
from appliance.keeper.protocol import (
    Health,
    KeeperStatistics,
    KeeperStatus,
    Link,
    PlaneStatus,
    Ready,
    Reply,
    Restart,
    Status,
    Stop,
    decode_order,
    decode_request,
    encode,
    error_of,
    refusal,
)
from appliance.system.channel import MAX_PACKET_BYTES
from appliance.wire.errors import Busy, Conflict, Invalid, NotFound, Refused, Unavailable

ids = st.integers(0, 2**31)
names = st.text(min_size=1, max_size=256)
requests = st.one_of(
    st.builds(Ready, id=ids),
    st.builds(Health, id=ids, timeout_s=st.floats(0.001, 3600)),
    st.builds(Status, id=ids),
    st.builds(Restart, id=ids, plane=st.text(min_size=1, max_size=32)),
    st.builds(Link, id=ids, name=names),
)
orders = st.one_of(
    st.builds(Stop, reason=st.text(), grace_s=st.floats(0, 100)),
    st.builds(Link, name=names, plane=st.text(max_size=32)),
    st.builds(Reply, id=ids, code=st.text(max_size=20), message=st.text(max_size=20)),
)


@given(requests)
def test_requests_survive_the_way(request: protocol.Request) -> None:
    assert decode_request(encode(request)) == request


@given(orders)
def test_orders_survive_the_way(order: protocol.Order) -> None:
    assert decode_order(encode(order)) == order


def test_the_words_on_the_channel() -> None:
    assert encode(Link(id=3, name="SY.admin", plane="control")) == (
        b'{"op":"link","id":3,"name":"SY.admin","plane":"control"}'
    )
    assert json.loads(encode(Ready())) == {"op": "ready", "id": 0}
    assert encode(Reply(id=4)) == b'{"op":"reply","id":4}'


def test_an_unknown_op_is_refused_by_name_and_id() -> None:
    answer = decode_request(b'{"op":"node_start","id":7,"more":[]}')
    assert isinstance(answer, Reply)
    assert (answer.id, answer.code) == (7, "INVALID_REQUEST")
    assert "node_start" in answer.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{",
        b'{"op":"health","id":1}',
        b'{"op":"health","id":1,"timeout_s":0}',
        b'{"op":"restart","id":1,"plane":""}',
        b'{"op":"ready","id":-1}',
        b'{"op":"link","name":"' + b"x" * 257 + b'"}',
        b'{"op":"ready","x":' + b"[" * 60_000 + b"]" * 5_000,
        b'{"op":"stop","reason":"","grace_s":1}',
    ],
)
def test_what_is_not_a_request_is_refused_in_a_small_reply(data: bytes) -> None:
    answer = decode_request(data)
    assert isinstance(answer, Reply)
    assert not answer.ok
    assert len(encode(answer)) < 1000


@given(st.binary(max_size=200))
def test_no_bytes_make_the_keeper_stumble(data: bytes) -> None:
    decode_request(data)


def test_a_long_unknown_op_does_not_come_back_whole() -> None:
    answer = decode_request(json.dumps({"op": "x" * 60_000, "id": 1}).encode())
    assert isinstance(answer, Reply)
    assert len(encode(answer)) < 2000


def test_an_order_that_is_not_understood_is_an_error() -> None:
    with pytest.raises(Invalid):
        decode_order(b'{"op":"dance"}')


@pytest.mark.parametrize("kind", [Busy, Conflict, Invalid, NotFound, Refused, Unavailable])
def test_errors_come_back_as_the_class_they_were(kind) -> None:
    reply = refusal(5, kind("no, because"))
    assert (reply.id, reply.ok) == (5, False)
    error = error_of(reply)
    assert type(error) is kind
    assert error.message == "no, because"


def test_an_error_of_an_unknown_class_keeps_its_code() -> None:
    assert error_of(Reply(id=1, code="STRANGE", message="m")).code == "STRANGE"


def test_status_of_many_planes_fits_into_a_packet() -> None:
    plane = PlaneStatus(
        name="x" * 32,
        state="stopping",
        pid=2**31,
        restarts=2**31,
        failures=2**31,
        parked="configuration",
        last_exit="exit 255",
        uptime_s=1e9,
        start_s=1e9,
        retry_in_s=1e9,
    )
    status = KeeperStatus(
        pid=1, uptime_s=1.0, stopping=False, planes=(plane,) * 64, statistics=KeeperStatistics()
    )
    data = encode(Reply(id=1, result=msgspec.Raw(encode(status))))
    assert len(data) < MAX_PACKET_BYTES
    back = decode_order(data)
    assert isinstance(back, Reply)
    assert msgspec.json.decode(back.result, type=KeeperStatus) == status
