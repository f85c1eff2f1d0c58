"""World state by message: SY.world of a real hive (``design.md §5``, ``spec/flux-state.md §3``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from appliance.sdk import Node
from appliance.wire import verbs
from appliance.wire.envelope import Json, system_message

from .world_kit import ADMIN, event, http, world_hive

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def hive():
    with world_hive() as running:
        yield running


def with_node(hive, name: str, body: Callable[[Node], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(20):
            async with hive.connect(name) as node:
                await body(node)

    trio.run(limited)


async def ask(node: Node, verb: str, **payload: object) -> Json:
    message = system_message(src=node.uuid, dst="SY.world@motherbee", verb=verb, payload=payload)
    answer = await node.request(message, timeout_s=10)
    assert answer.meta.msg == f"{verb}_RESPONSE"
    return answer.json()


def test_publish_get_list_history_delete(hive):
    async def body(node: Node) -> None:
        events = [event("node/a", x=1), event("node/b", x=[1, {"y": None}]), {"stream": "BAD"}]
        report = await ask(node, verbs.WORLD_PUBLISH, events=events)
        assert (report["status"], report["successful"], report["failed"]) == ("ok", 2, 1)
        assert report["results"][2]["error"]
        found = await ask(node, verbs.WORLD_GET, entity_id="node/b")
        assert found["entity"]["properties"] == {"x": [1, {"y": None}]}
        assert (await ask(node, verbs.WORLD_GET, entity_id="node/none"))["entity"] is None
        listed = await ask(node, verbs.WORLD_LIST, prefix="node/", limit=1)
        assert [one["id"] for one in listed["entities"]] == ["node/a"]
        listed = await ask(node, verbs.WORLD_LIST, namespace="node", after="node/a")
        assert [one["id"] for one in listed["entities"]] == ["node/b"]
        deleted = await ask(node, verbs.WORLD_DELETE, entity_id="node/a")
        assert deleted["status"] == "ok"
        past = await ask(node, verbs.WORLD_HISTORY, entity_id="node/a")
        assert [one["seq"] for one in past["events"] if "seq" in one] in ([], [deleted["seq"], 1])
        assert len(past["events"]) == 2

    with_node(hive, "AI.writer", body)
    with http(hive) as client:
        assert client.get("/api/state/entities/node/a").status_code == 404
        assert client.get("/api/state/entities/node/b").status_code == 200


@pytest.mark.parametrize(
    ("verb", "payload"),
    [
        (verbs.WORLD_PUBLISH, {}),
        (verbs.WORLD_PUBLISH, {"events": []}),
        (verbs.WORLD_PUBLISH, {"events": "x"}),
        (verbs.WORLD_GET, {"entity_id": 5}),
        (verbs.WORLD_LIST, {"limit": 501}),
        (verbs.WORLD_HISTORY, {"entity_id": "a", "limit": 0}),
        ("WORLD_DANCE", {}),
    ],
)
def test_what_is_wrong_is_said(hive, verb, payload):
    async def body(node: Node) -> None:
        answer = await ask(node, verb, **payload)
        assert (answer["status"], bool(answer["error_code"])) == ("error", True)

    with_node(hive, "AI.clumsy", body)


def test_many_messages_at_once_are_answered_each(hive):
    """A sender need not wait; the order of its messages holds."""

    async def body(node: Node) -> None:
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(publish, node, n)
        for n in range(30):
            message = system_message(
                src=node.uuid,
                dst="SY.world@motherbee",
                verb=verbs.WORLD_PUBLISH,
                payload={"events": [event("node/order", n=n)]},
            )
            await node.send(message)
        found = await ask(node, verbs.WORLD_GET, entity_id="node/order")
        assert found["entity"]["properties"] == {"n": 29}

    async def publish(node: Node, n: int) -> None:
        report = await ask(node, verbs.WORLD_PUBLISH, events=[event(f"node/many/{n}", n=n)])
        assert report["successful"] == 1

    with_node(hive, "AI.fast", body)


def test_with_auth_on_a_token_or_a_namespace_of_its_own_is_needed():
    with (
        world_hive(auth_enabled=True, node_namespaces=["AI.pump*@*=plant"]) as hive,
        http(hive, ADMIN) as admin,
    ):
        token = admin.post("/api/namespaces", json={"name": "plant"}).json()["token"]

        async def stranger(node: Node) -> None:
            answer = await ask(node, verbs.WORLD_PUBLISH, events=[event("plant/a", x=1)])
            assert answer["error_code"] == "UNAUTHORIZED"
            answer = await ask(node, verbs.WORLD_DELETE, entity_id="plant/a")
            assert answer["status"] == "error"
            answer = await ask(node, verbs.WORLD_PUBLISH, events=[event("plant/a", x=1)], token="wrong")
            assert answer["failed"] == 1
            answer = await ask(node, verbs.WORLD_PUBLISH, events=[event("plant/a", x=1)], token=token)
            assert answer["successful"] == 1
            assert (await ask(node, verbs.WORLD_GET, entity_id="plant/a"))["entity"] is not None

        async def pump(node: Node) -> None:
            answer = await ask(node, verbs.WORLD_PUBLISH, events=[event("plant/b", x=1)])
            assert answer["successful"] == 1
            mixed = [event("plant/c", x=1), event("other/c", x=1)]
            assert (await ask(node, verbs.WORLD_PUBLISH, events=mixed))["error_code"] == "FORBIDDEN"
            assert (await ask(node, verbs.WORLD_DELETE, entity_id="other/x"))["error_code"] == "FORBIDDEN"
            assert (await ask(node, verbs.WORLD_DELETE, entity_id="plant/b"))["status"] == "ok"

        with_node(hive, "AI.stranger", stranger)
        with_node(hive, "AI.pump7", pump)
