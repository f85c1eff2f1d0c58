"""A managed node's configuration: its files, CONFIG_SET, CONFIG_CHANGED, and secrets that stay apart."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import msgspec
import pytest

from appliance.sdk import ManagedConfig, NodeConfig, SecretDescriptor, UuidMode, connect, run_node
from appliance.testing.link import FakeRouter
from appliance.wire.envelope import Message, system_message
from appliance.wire.errors import Damaged, Invalid
from appliance.wire.nodeconfig import ConfigGet, ConfigSet, build_config_get, build_config_set

pytestmark = pytest.mark.anyio
NAME = "AI.x@hive1"
KEYS = (SecretDescriptor(field="deep.key", storage_key="the_key"),)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


class Deep(msgspec.Struct, frozen=True):
    key: str = ""
    other: int = 0


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    word: str = "none"
    number: int = 1
    deep: Deep = Deep()


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "AI" / NAME

    def write(self, name: str = "config.json", **content: object) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(json.dumps(content))

    def read(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text())

    def open(self, **more: object) -> ManagedConfig[Shape]:
        return ManagedConfig(Shape, name=NAME, root=self.root, secrets=KEYS, **more)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def setting(version: int, **config: object) -> Message:
    body = ConfigSet(
        node_name=NAME, schema_version=1, config_version=version, apply_mode="replace", config=config
    )
    return build_config_set("asker", body)


def changed(version: int, patch: object, *, name: str = NAME, subsystem: str = "node_config") -> Message:
    payload = {"subsystem": subsystem, "version": version, "config": {"node_name": name, "patch": patch}}
    return system_message(src="admin", dst="broadcast", verb="CONFIG_CHANGED", payload=payload)


async def test_the_layers(place, tmp_path):
    defaults = tmp_path / "default.json"
    defaults.write_text('{"word": "default", "number": 5, "unknown": 1}')
    assert place.open(defaults=defaults).values == Shape(word="default", number=5)
    place.write(word="file", tenant_id="tnt:x", _system={"config_version": 1})
    assert place.open(defaults=defaults).values == Shape(word="file", number=5)
    place.write("state.json", config_version=3, config={"word": "set"})
    assert place.open(defaults=defaults).values.word == "set"
    place.write("state.json", last_error=None)
    assert place.open().values.word == "file"


async def test_a_node_started_by_hand(monkeypatch):
    monkeypatch.delenv("FLUXBEE_NODE_NAME", raising=False)
    config = ManagedConfig(Shape)
    assert config.directory is None
    response = await config.control().answer(setting(1, word="a"), NAME)
    assert response.ok
    assert config.values.word == "a"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("config.json", "{", Damaged),
        ("config.json", "[]", Invalid),
        ("config.json", '{"number": "secret words"}', Invalid),
        ("state.json", '{"config_version": 1, "config": 2}', Invalid),
        ("secrets.json", "{}", Damaged),
    ],
)
async def test_files_that_cannot_be_used(place, name, text, error):
    place.write()
    (place.folder / name).write_text(text)
    with pytest.raises(error) as told:
        place.open()
    assert "secret words" not in str(told.value)


async def test_config_set_keeps_secrets_apart(place):
    place.write(word="file", deep={"other": 4})
    config = place.open()
    control = config.control()
    response = await control.answer(setting(2, word="set", deep={"key": "sesame", "other": 9}), NAME)
    assert response.ok
    assert config.values == Shape(word="set", deep=Deep(key="sesame", other=9))
    assert "sesame" not in json.dumps(msgspec.to_builtins(response))
    assert place.read("state.json")["config"] == {"word": "set", "deep": {"other": 9}}
    assert place.read("secrets.json")["secrets"] == {"the_key": "sesame"}
    assert (place.folder / "secrets.json").stat().st_mode & 0o777 == 0o600

    again = place.open()
    assert again.values == config.values
    assert again.control().contract.secrets[0].configured
    response = await again.control().answer(
        setting(3, word="third", deep={"key": "***REDACTED***", "other": 1}), NAME
    )
    assert response.ok
    assert again.values == Shape(word="third", deep=Deep(key="sesame", other=1))


async def test_what_does_not_fit_is_refused_and_nothing_changes(place):
    config = place.open()
    control = config.control()
    response = await control.answer(setting(1, number="many"), NAME)
    assert (response.ok, response.error.code) == (False, "invalid_config")
    assert config.values == Shape()
    assert not (place.folder / "state.json").exists()
    assert (await control.answer(setting(0, number=7), NAME)).config_version == 1


async def test_a_flood_is_followed_once_and_only_for_oneself(place):
    place.write(word="one")
    config = place.open()
    router = FakeRouter()
    node_config = NodeConfig(name=NAME, dial=router.dial, uuid_mode=UuidMode.EPHEMERAL)
    async with connect(node_config, control=config.control()) as node:
        place.write(word="two")
        for ignored in (changed(4, {}, name="AI.y@hive1"), changed(4, {}, subsystem="vpn")):
            await config.on_system(ignored, node)
        assert config.values.word == "one"
        await config.on_system(changed(4, {"word": "two"}), node)
        assert config.values.word == "two"
        assert node.control.in_force.config["word"] == "two"
        place.write(word="three")
        await config.on_system(changed(4, {"word": "three"}), node)
        assert config.values.word == "two", "the same version again"
        await config.on_system(changed(0, {"word": "three"}), node)
        assert config.values.word == "three", "version 0 forces"

        place.write(number="x")
        await config.on_system(changed(5, {"number": "x"}), node)
        assert config.values.word == "three"
        assert (node.health.state, node.health.last_error["code"]) == ("DEGRADED", "invalid_config")
        place.write(word="four")
        await config.on_system(changed(6, {"word": "four"}), node)
        assert (node.health.state, node.health.last_error) == ("HEALTHY", None)


async def test_in_a_whole_node(place):
    config = place.open()
    router, stop = FakeRouter(carries=False), anyio.Event()
    seen = []

    async def watch() -> None:
        seen.append((await config.wait_change()).word)
        stop.set()

    async def handler(message, node):
        return None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: run_node(
                NodeConfig(name=NAME, dial=router.dial, uuid_mode=UuidMode.EPHEMERAL),
                handler,
                control=config.control(),
                on_system=config.on_system,
                stop=stop,
                handle_signals=False,
            )
        )
        tasks.start_soon(watch)
        peer = await router.wait_peers(1)
        peer.send(build_config_get("asker", ConfigGet(node_name=NAME)))
        assert (await peer.next_message()).json()["effective_config"] == {}
        peer.send(setting(1, word="live"))
        assert (await peer.next_message()).json()["ok"]
    assert seen == ["live"]
