"""Commands to the hive: what is sent, what an answer is, which error a rejection becomes."""

from __future__ import annotations

import anyio
import pytest

from appliance.sdk import AdminResult, NodeConfig, UuidMode, admin_command, admin_command_ok, connect
from appliance.testing.link import FakeRouter
from appliance.wire.envelope import Message, Meta, build_message
from appliance.wire.errors import (
    Busy,
    Conflict,
    FluxbeeError,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
    Unreachable,
)

pytestmark = pytest.mark.anyio

ADMIN_UUID = "33333333-3333-4333-8333-333333333333"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class Exchange:
    """One command and its scripted answer."""

    def __init__(self, payload: object, **meta: str) -> None:
        self.payload = payload
        self.meta = Meta(type="admin", msg="ADMIN_COMMAND_RESPONSE", **meta)
        self.asked: Message | None = None

    async def run(self, call, *args: object, **kwargs: object) -> AdminResult:
        router = FakeRouter(carries=False)
        config = NodeConfig(name="WF.x", dial=router.dial, uuid_mode=UuidMode.EPHEMERAL)
        result: list[AdminResult] = []
        with anyio.fail_after(10):
            async with connect(config) as node, anyio.create_task_group() as tasks:

                async def ask() -> None:
                    result.append(await call(node, *args, **kwargs))

                peer = await router.wait_peers(1)
                tasks.start_soon(ask)
                self.asked = await peer.next_message()
                answer = build_message(
                    src=ADMIN_UUID,
                    dst=node.uuid,
                    payload=self.payload,
                    meta=self.meta,
                    trace_id=self.asked.routing.trace_id,
                )
                peer.send(answer)
        return result[0]


def answered(**keys: object) -> dict[str, object]:
    return {
        "status": "ok",
        "action": "run_node",
        "payload": {},
        "error_code": None,
        "error_detail": None,
        **keys,
    }


async def test_a_command_is_sent_as_the_reference_sends_it_and_its_answer_comes_back_whole() -> None:
    talk = Exchange(
        answered(payload={"state": "started"}, request_id="req-1"),
        action_result="applied",
        result_origin="node",
    )
    result = await talk.run(
        admin_command, "run_node", target="worker-1", params={"node_name": "WF.y"}, request_id="req-1"
    )
    asked = talk.asked
    assert asked is not None
    assert asked.routing.dst == "SY.admin@motherbee"
    assert (asked.meta.type, asked.meta.msg, asked.meta.target) == (
        "admin",
        "ADMIN_COMMAND",
        "SY.admin@motherbee",
    )
    assert (asked.meta.action, asked.meta.action_class) == ("run_node", "node_lifecycle")
    assert asked.json() == {
        "action": "run_node",
        "target": "worker-1",
        "params": {"node_name": "WF.y"},
        "request_id": "req-1",
    }
    assert result == AdminResult(
        status="ok",
        action="run_node",
        payload={"state": "started"},
        error_code=None,
        error_detail=None,
        action_result="applied",
        result_origin="node",
        request_id="req-1",
        trace_id=asked.routing.trace_id,
    )


async def test_without_target_and_params_a_request_id_is_sent_all_the_same() -> None:
    talk = Exchange(answered())
    await talk.run(admin_command, "list_hives")
    assert talk.asked is not None
    body = talk.asked.json()
    assert isinstance(body, dict)
    assert body.keys() == {"action", "params", "request_id"}
    assert body["request_id"]


async def test_an_older_answer_without_payload_has_its_other_keys_as_payload() -> None:
    result = await Exchange({"status": "ok", "hives": [], "n": 1}).run(admin_command, "list_hives")
    assert result.payload == {"hives": [], "n": 1}
    assert result.action == "list_hives"


async def test_an_error_is_a_result_of_admin_command() -> None:
    result = await Exchange(answered(status="error", error_code="FORBIDDEN")).run(admin_command, "run_node")
    assert (result.is_ok, result.error_code) == (False, "FORBIDDEN")


@pytest.mark.parametrize("payload", [[], "ok", {}, {"status": 7}])
async def test_an_answer_without_a_status_is_none(payload: object) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await Exchange(payload).run(admin_command, "run_node")
    (error,) = caught.value.exceptions
    assert isinstance(error, Invalid)
    assert error.code == "INVALID_RESPONSE"


REJECTIONS = [
    ("FORBIDDEN", Refused),
    ("TIMEOUT", Unreachable),
    ("TRANSPORT_ERROR", Unreachable),
    ("BUSY", Busy),
    ("NOT_FOUND", NotFound),
    ("NODE_CONFIG_NOT_FOUND", NotFound),
    ("NOT_PRIMARY", Conflict),
    ("VERSION_MISMATCH", Conflict),
    ("NODE_INSTANCE_RUNNING", Conflict),
    ("INVALID_REQUEST", Invalid),
    ("UNKNOWN_ACTION", Invalid),
    ("SPAWN_FAILED", Unavailable),
]


@pytest.mark.parametrize(("code", "kind"), REJECTIONS)
async def test_a_rejection_becomes_the_error_that_says_what_to_do(
    code: str, kind: type[FluxbeeError]
) -> None:
    talk = Exchange(answered(status="error", error_code=code, error_detail={"message": "it is so"}))
    with pytest.raises(BaseExceptionGroup) as caught:
        await talk.run(admin_command_ok, "run_node")
    (error,) = caught.value.exceptions
    assert type(error) is kind
    assert isinstance(error, FluxbeeError)
    assert (error.code, error.message) == (code, f"run_node was answered {code}: it is so")


async def test_sync_pending_is_not_ok() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await Exchange(answered(status="sync_pending")).run(admin_command_ok, "update")
    assert [error.code for error in caught.value.exceptions] == ["sync_pending"]


async def test_what_is_ok_is_returned() -> None:
    assert (await Exchange(answered()).run(admin_command_ok, "run_node")).is_ok


async def test_nonsense_is_refused_before_it_is_sent_and_silence_is_unreachable() -> None:
    router = FakeRouter(carries=False)
    config = NodeConfig(name="WF.x", dial=router.dial, uuid_mode=UuidMode.EPHEMERAL)
    async with connect(config) as node:
        with pytest.raises(Invalid):
            await admin_command(node, "  ")
        with pytest.raises(Invalid):
            await admin_command(node, "run_node", params=[])  # type: ignore[arg-type]
        with pytest.raises(Unreachable) as caught:
            await admin_command(node, "run_node", timeout_s=0.01)
        assert caught.value.code == "TIMEOUT"
