from __future__ import annotations

import anyio
import pytest

from appliance.sdk.control import ConfigContract, ConfigInForce, NodeControl
from appliance.sdk.secrets import REDACTED, SecretDescriptor
from appliance.wire.envelope import Message, system_message
from appliance.wire.errors import Conflict, Invalid, Unavailable
from appliance.wire.nodeconfig import ConfigGet, ConfigSet, build_config_get, build_config_set

pytestmark = pytest.mark.anyio

NAME = "AI.chat@hive1"
KEY = SecretDescriptor(field="openai.api_key", storage_key="openai_api_key", required=True)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def setting(version: int, config: dict | None = None, **more) -> Message:
    body = {
        "node_name": NAME,
        "schema_version": 1,
        "config_version": version,
        "apply_mode": "replace",
        "config": config or {},
        **more,
    }
    return build_config_set("asker", ConfigSet(**body))


def getting(name: str = NAME) -> Message:
    return build_config_get("asker", ConfigGet(node_name=name))


class Author:
    def __init__(self) -> None:
        self.applied: list[ConfigSet] = []
        self.error: Exception | None = None
        self.effective: dict | None = None

    async def on_set(self, request: ConfigSet) -> dict | None:
        if self.error is not None:
            raise self.error
        self.applied.append(request)
        return self.effective


async def test_a_node_that_was_never_configured() -> None:
    response = await NodeControl(Author().on_set).answer(getting(), NAME)
    assert (response.ok, response.state, response.config_version) == (True, "UNCONFIGURED", None)
    assert response.contract == {
        "supports": ["CONFIG_GET", "CONFIG_SET"],
        "target": "node_config_control",
        "apply_modes": ["replace"],
        "schema_version": 1,
        "config_schema": "",
        "required_fields": [],
        "optional_fields": [],
        "secrets": [],
        "examples": [],
        "notes": [],
    }


async def test_setting_and_getting() -> None:
    author = Author()
    control = NodeControl(author.on_set)
    response = await control.answer(setting(7, {"a": 1}), NAME)
    assert (response.ok, response.state, response.config_version) == (True, "CONFIGURED", 7)
    assert response.effective_config == {"a": 1}
    assert [request.config for request in author.applied] == [{"a": 1}]
    author.effective = {"a": 2, "default": True}
    await control.answer(setting(8, {"a": 2}), NAME)
    assert (await control.answer(getting(), NAME)).effective_config == author.effective


async def test_the_stored_configuration_is_in_force_from_the_start() -> None:
    stored = ConfigInForce(config_version=4, config={"a": 1})
    control = NodeControl(Author().on_set, in_force=stored)
    response = await control.answer(getting("AI.chat"), NAME)
    assert (response.state, response.config_version) == ("CONFIGURED", 4)
    assert response.effective_config == {"a": 1}


async def test_versions() -> None:
    author = Author()
    control = NodeControl(author.on_set)
    await control.answer(setting(7), NAME)
    assert (await control.answer(setting(7, {"other": 1}), NAME)).ok
    assert len(author.applied) == 1  # equal: nothing to do, and fine
    response = await control.answer(setting(6), NAME)
    assert response.error is not None
    assert (response.ok, response.error.code, response.config_version) == (False, "stale_config_version", 7)
    assert (await control.answer(setting(8), NAME)).config_version == 8


async def test_zero_is_next_for_services() -> None:
    author = Author()
    control = NodeControl(author.on_set, zero_is_next=True)
    assert (await control.answer(setting(0), NAME)).config_version == 1
    assert (await control.answer(setting(0), NAME)).config_version == 2
    assert [request.config_version for request in author.applied] == [1, 2]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (setting(1, apply_mode="merge"), "unsupported_apply_mode"),
        (setting(1, node_name="AI.other@hive1"), "invalid_config"),
        (getting("AI.chat@hive2"), "invalid_config"),
        (system_message(src="a", dst=NAME, verb="CONFIG_SET", payload={"node_name": NAME}), "invalid_config"),
        (system_message(src="a", dst=NAME, verb="PING"), "invalid_envelope"),
    ],
)
async def test_wrong_requests_have_their_codes(message: Message, code: str) -> None:
    author = Author()
    response = await NodeControl(author.on_set).answer(message, NAME)
    assert response.error is not None
    assert (response.ok, response.state, response.error.code) == (False, "FAILED_CONFIG", code)
    assert author.applied == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("a is wrong", field="a"), "invalid_config"),
        (Invalid("a is wrong", code="my_code"), "my_code"),
        (Conflict("x"), "CONFLICT"),
        (Unavailable("disk", code="secret_persist_error"), "secret_persist_error"),
        (OSError(28, "No space left"), "config_persist_error"),
    ],
)
async def test_a_refusing_author_keeps_the_old_configuration(error: Exception, code: str) -> None:
    author = Author()
    control = NodeControl(author.on_set)
    await control.answer(setting(1, {"a": 1}), NAME)
    author.error = error
    response = await control.answer(setting(2, {"a": 2}), NAME)
    assert response.error is not None
    assert (response.error.code, response.config_version) == (code, 1)
    after = await control.answer(getting(), NAME)
    assert (after.state, after.effective_config) == ("CONFIGURED", {"a": 1})


async def test_a_first_configuration_that_fails_shows() -> None:
    author = Author()
    author.error = Invalid("no")
    control = NodeControl(author.on_set)
    await control.answer(setting(1), NAME)
    assert (await control.answer(getting(), NAME)).state == "FAILED_CONFIG"
    author.error = None
    assert (await control.answer(setting(1), NAME)).state == "CONFIGURED"


async def test_an_author_that_does_not_come_back() -> None:
    async def never(request: ConfigSet) -> None:
        await anyio.sleep_forever()

    response = await NodeControl(never, timeout_s=0.01).answer(setting(1), NAME)
    assert response.error is not None
    assert response.error.code == "config_timeout"


async def test_secrets_reach_the_author_and_nobody_else() -> None:
    author = Author()
    control = NodeControl(author.on_set, contract=ConfigContract(secrets=(KEY,)))
    response = await control.answer(setting(1, {"openai": {"api_key": "sk-1", "model": "m"}}), NAME)
    assert response.effective_config == {"openai": {"api_key": REDACTED, "model": "m"}}
    assert author.applied[0].config["openai"] == {"api_key": "sk-1", "model": "m"}
    assert response.contract["secrets"][0] == {  # type: ignore[index,call-overload]
        "field": "openai.api_key",
        "storage_key": "openai_api_key",
        "required": True,
        "configured": False,
        "value_redacted": True,
        "persistence": "local_file",
    }
    # What was shown comes back edited: the placeholder means unchanged.
    await control.answer(setting(2, {"openai": {"api_key": REDACTED, "model": "n"}}), NAME)
    assert author.applied[1].config["openai"] == {"api_key": "sk-1", "model": "n"}


async def test_an_unknown_failure_is_an_answer_without_its_words() -> None:
    response = NodeControl(Author().on_set).failed(NAME, ValueError("sk-secret"))
    assert response.error is not None
    assert (response.error.code, "sk-secret" in response.error.text) == ("INTERNAL", False)
