"""Publishing a blob and waiting for others to have it."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from appliance.sdk import NodeConfig, UuidMode, connect, publish_blob_and_confirm
from appliance.testing.link import FakeRouter, Peer
from appliance.wire.envelope import Message, system_message
from appliance.wire.errors import Busy, FluxbeeError, Invalid, Unavailable, Unreachable

pytestmark = pytest.mark.anyio

ORCHESTRATOR = "44444444-4444-4444-8444-444444444444"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class Scene:
    """A node that publishes, and the scripted answers of whoever it asks."""

    def __init__(self, root: Path) -> None:
        self.router = FakeRouter(carries=False)
        self.asked: list[Message] = []
        self._config = NodeConfig(
            name="IO.mail", dial=self.router.dial, uuid_mode=UuidMode.EPHEMERAL, blob_root=root
        )

    async def publish(self, answers: list[object], **kwargs: object):
        with anyio.fail_after(10):
            async with connect(self._config) as node, anyio.create_task_group() as tasks:
                peer = await self.router.wait_peers(1)
                tasks.start_soon(self._answer, peer, answers)
                try:
                    return await publish_blob_and_confirm(node, b"content", "a.txt", **kwargs)
                finally:
                    tasks.cancel_scope.cancel()

    async def _answer(self, peer: Peer, answers: list[object]) -> None:
        for payload in answers:
            asked = await peer.next_message()
            self.asked.append(asked)
            verb = payload if isinstance(payload, str) else "SYSTEM_SYNC_HINT_RESPONSE"
            body = {"original_dst": asked.routing.dst, "reason": "NODE_NOT_FOUND"}
            peer.send(
                system_message(
                    src=ORCHESTRATOR,
                    dst=asked.routing.src,
                    verb=verb,
                    payload=body if isinstance(payload, str) else payload,
                    trace_id=asked.routing.trace_id,
                )
            )


async def failure(scene: Scene, answers: list[object], **kwargs: object) -> FluxbeeError:
    with pytest.raises(BaseExceptionGroup) as caught:  # of the scene's own task group
        await scene.publish(answers, **kwargs)
    (error,) = caught.value.exceptions
    assert isinstance(error, FluxbeeError)
    return error


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_each_target_is_asked_in_turn_and_the_blob_lies_in_active(scene: Scene, tmp_path: Path) -> None:
    done = await scene.publish(
        [{"status": "ok"}, {"status": "ok", "state": "idle"}],
        targets=["worker-1", "SY.orchestrator@worker-2"],
        timeout_s=20,
    )
    assert [one.target for one in done.targets] == ["SY.orchestrator@worker-1", "SY.orchestrator@worker-2"]
    assert {one.status for one in done.targets} == {"ok"}
    assert done.timeout_ms == 20_000
    name = done.blob_ref.blob_name
    assert list((tmp_path / "active").rglob(name))
    first = scene.asked[0]
    assert (first.meta.type, first.meta.msg, first.meta.action) == ("system", "SYSTEM_SYNC_HINT", None)
    body = first.json()
    assert isinstance(body, dict)
    assert 0 < body.pop("timeout_ms") <= 20_000
    assert body == {"channel": "blob", "folder_id": "fluxbee-blob", "wait_for_idle": True}


async def test_a_target_that_is_not_done_is_asked_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.sdk.publish._PAUSE_S", 0.0)
    answers: list[object] = [{"status": "sync_pending", "message": "3 to go"}, {"status": "ok"}]
    done = await scene.publish(answers, targets=["w"], wait_for_idle=False)
    assert len(scene.asked) == 2
    assert len(done.targets) == 1
    assert scene.asked[0].json()["wait_for_idle"] is False  # type: ignore[index,call-overload]


async def test_the_deadline_holds_for_a_target_that_never_gets_done(scene: Scene) -> None:
    error = await failure(scene, [{"status": "sync_pending"}], targets=["w"], timeout_s=0.05)
    assert isinstance(error, Busy)
    assert error.code == "BLOB_SYNC_HINT_TIMEOUT"


async def test_a_silent_target_runs_into_the_deadline(scene: Scene) -> None:
    error = await failure(scene, [], targets=["w"], timeout_s=0.02)
    assert error.code == "BLOB_SYNC_HINT_TIMEOUT"


@pytest.mark.parametrize(
    "answer",
    [{"status": "error", "error_code": "SYNC_DISABLED", "message": "no"}, "UNREACHABLE", {"no": "status"}],
)
async def test_a_refusal_ends_it(scene: Scene, answer: object) -> None:
    error = await failure(scene, [answer], targets=["w", "never-asked"])
    assert isinstance(error, Unavailable)
    assert error.code == "BLOB_SYNC_HINT_FAILED"
    assert "SY.orchestrator@w" in error.message
    assert len(scene.asked) == 1


async def test_a_node_without_its_router_cannot_ask(scene: Scene) -> None:
    with anyio.fail_after(10):
        async with connect(scene._config) as node:
            peer = await scene.router.wait_peers(1)
            scene.router.stop()
            peer.close()
            while node.is_connected:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(Unreachable) as caught:
                await publish_blob_and_confirm(node, b"x", "a.txt", targets=["w"], timeout_s=0.05)
    assert caught.value.code == "BLOB_SYNC_HINT_TRANSPORT"


async def test_there_must_be_a_target(scene: Scene) -> None:
    assert isinstance(await failure(scene, [], targets=[]), Invalid)
