"""The example nodes as a reader would start them, in a real hive: processes, sockets, HTTP, a browser."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.testing.hive import HiveHarness
from appliance.wire.nodeconfig import ConfigGet, ConfigSet, build_config_get, build_config_set
from tests.compat.example_kit import Asker, asking, running
from tests.compat.fake_openai import FakeOpenAI, busy, calls, fails, garbage, says, silent

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(scope="module")
def hive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HiveHarness]:
    folder = Path(os.path.realpath(tmp_path_factory.mktemp("h")))
    with HiveHarness(folder) as hive:
        yield hive


def agent_config(fake: FakeOpenAI, **more: object) -> dict[str, object]:
    return {"base_url": fake.base_url, "model": "test-model", "api_key": "sk-test", "timeout_s": 5, **more}


# --- ai.echo ---------------------------------------------------------------------------------------------


def test_echo_answers_as_configured(hive):
    async def steps(asker: Asker) -> None:
        assert await asker.text("AI.echo@motherbee", "hola") == "> HOLA"

    with running(hive, "ai-echo", "AI.echo@motherbee", {"prefix": "> ", "upper": True}):
        asking(hive, steps)


# --- ai.openai -------------------------------------------------------------------------------------------

NAME = "AI.openai@motherbee"


def test_a_conversation_has_its_prompt_its_memory_and_its_order(hive):
    async def steps(asker: Asker) -> None:
        assert await asker.text(NAME, "first", thread_id="t1") == "one"
        assert await asker.text(NAME, "second", thread_id="t1") == "two"
        assert await asker.text(NAME, "elsewhere", thread_id="t2") == "heard: elsewhere"
        assert await asker.text(NAME, "nowhere") == "heard: nowhere"

    with FakeOpenAI(says("one"), says("two")) as fake:
        config = agent_config(fake, system_prompt="Be a bee.", temperature=0.5, max_tokens=99)
        with running(hive, "ai-openai", NAME, config):
            asking(hive, steps)
    assert fake.problems == []
    second = fake.requests[1]
    assert (second["model"], second["temperature"], second["max_tokens"]) == ("test-model", 0.5, 99)
    assert [(m["role"], m["content"]) for m in second["messages"]] == [
        ("system", "Be a bee."),
        ("user", "first"),
        ("assistant", "one"),
        ("user", "second"),
    ]
    assert [m["content"] for m in fake.requests[2]["messages"]] == ["Be a bee.", "elsewhere"]


def test_tools_reach_the_nodes_that_are_declared_and_no_other(hive):
    tools = [
        {"name": "now", "kind": "now"},
        {"name": "ask_echo", "kind": "send_message", "to": "AI.echo@motherbee", "description": "an echo"},
        {"name": "ask_any", "kind": "send_message", "allow": ["AI.echo*"]},
    ]

    async def steps(asker: Asker) -> None:
        await asker.text("AI.echo@motherbee", "up?")
        assert await asker.text(NAME, "use your tools") == "done"

    script = [
        calls(("now", {}), ("ask_echo", {"text": "ping"})),
        calls(("ask_any", {"text": "pong", "to": "SY.admin@motherbee"}), ("nothing", {})),
        calls(("ask_any", {"text": "pong", "to": "AI.echo@motherbee"}), ("ask_echo", {"wrong": 1})),
        says("done"),
    ]
    with (
        FakeOpenAI(*script) as fake,
        running(hive, "ai-echo", "AI.echo@motherbee"),
        running(hive, "ai-openai", NAME, agent_config(fake, tools=tools)),
    ):
        asking(hive, steps)
    assert fake.problems == []
    told = [m["content"] for m in fake.requests[-1]["messages"] if m["role"] == "tool"]
    assert told[0].endswith("+00:00")
    assert told[1] == "ping"
    assert "not_allowed" in told[2]
    assert "unknown_tool" in told[3]
    assert told[4] == "pong"
    assert "invalid_arguments" in told[5]
    declared = {one["function"]["name"]: one["function"]["parameters"] for one in fake.requests[0]["tools"]}
    assert declared["ask_echo"]["required"] == ["text"]
    assert declared["ask_any"]["required"] == ["text", "to"]


def test_failures_are_told_in_words_and_repeated_where_that_helps(hive):
    async def steps(asker: Asker) -> None:
        assert await asker.text(NAME, "one") == "after two failures"
        answer = await asker.ask(NAME, "two")
        assert "I cannot answer" in answer["content"]
        assert "no such model" in answer["content"]
        assert (answer["error"]["code"], answer["error"]["retryable"]) == ("MODEL_REFUSED", False)
        for code in ("MODEL_GARBAGE", "MODEL_EMPTY", "TOOL_ROUNDS_USED_UP", "invalid_payload"):
            answer = await asker.ask(NAME, "" if code == "invalid_payload" else "again")
            assert answer["error"]["code"] == code
        assert await asker.text(NAME, "three") == "heard: three"

    script = [busy(), fails(503), says("after two failures"), fails(404, "no such model")]
    script += [garbage(), garbage(b'{"choices": []}'), garbage(b"\xff"), says(" ")]
    script += [calls(("now", {})), calls(("now", {}))]
    with (
        FakeOpenAI(*script) as fake,
        running(hive, "ai-openai", NAME, agent_config(fake, attempts=3, tool_rounds=2)),
    ):
        asking(hive, steps)
    assert fake.problems == []
    assert not fake.script


def test_deadlines_hold_and_programs_are_told_in_their_shape(hive):
    with FakeOpenAI(silent(), silent(), silent()) as fake:
        config = agent_config(fake, attempts=1, timeout_s=0.2, deadline_s=30, errors="payload")
        with running(hive, "ai-openai", NAME, {**config, "deadline_s": 30}):
            asking(hive, lambda asker: _one(asker, "MODEL_TIMEOUT"))
        with running(hive, "ai-openai", NAME, {**config, "timeout_s": 30, "deadline_s": 0.2}):
            asking(hive, lambda asker: _one(asker, "DEADLINE_PASSED"))


async def _one(asker: Asker, code: str) -> None:
    answer = await asker.ask(NAME, "hello?")
    assert (answer["type"], answer["code"], answer["retryable"]) == ("error", code, True)


def test_the_key_is_set_live_and_never_told(hive):
    async def steps(asker: Asker) -> None:
        node = asker.node
        answer = await asker.ask(NAME, "hello")
        assert answer["error"]["code"] == "MODEL_KEY_REFUSED"
        change = ConfigSet(
            node_name=NAME,
            schema_version=1,
            config_version=1,
            apply_mode="replace",
            config={"api_key": "sk-test", "system_prompt": "live"},
        )
        response = (await node.request(build_config_set(node.uuid, change))).json()
        assert response["ok"]
        assert await asker.text(NAME, "hello") == "heard: hello"
        response = (await node.request(build_config_get(node.uuid, ConfigGet(node_name=NAME)))).json()
        assert response["effective_config"]["api_key"] == "***REDACTED***"
        assert response["contract"]["secrets"][0]["storage_key"] == "openai_api_key"
        wrong = ConfigSet(
            node_name=NAME,
            schema_version=1,
            config_version=2,
            apply_mode="replace",
            config={"base_url": "http://example.org/v1"},
        )
        response = (await node.request(build_config_set(node.uuid, wrong))).json()
        assert "in the clear" in response["error"]["message"]
        assert await asker.text(NAME, "still") == "heard: still"

    with FakeOpenAI() as fake:
        config = {**agent_config(fake), "api_key": None}
        with running(hive, "ai-openai", NAME, config):
            asking(hive, steps)
        assert fake.requests[0]["messages"][0]["content"] == "live"
        folder = hive.paths.nodes / "AI" / NAME
        assert "sk-test" not in (folder / "state.json").read_text() + (folder / "log").read_text()
        assert (folder / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_threads_wait_for_themselves_and_not_for_others(hive):
    async def steps(asker: Asker) -> None:
        await asker.text(NAME, "up?")
        answers: dict[str, str] = {}

        async def ask(thread: str, text: str) -> None:
            answers[text] = await asker.text(NAME, text, thread_id=thread)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(ask, f"c{number % 3}", f"q{number}")
        assert answers == {f"q{n}": f"heard: q{n}" for n in range(12)}

    with FakeOpenAI() as fake, running(hive, "ai-openai", NAME, agent_config(fake)):
        asking(hive, steps)
    assert fake.problems == []
    assert max(len(one["messages"]) for one in fake.requests) == 1 + 2 * 3 + 1


def test_tls_is_checked(hive, tmp_path):
    tls, bundle = certificate(tmp_path)

    async def trusted(asker: Asker) -> None:
        assert await asker.text(NAME, "secret") == "heard: secret"

    async def foreign(asker: Asker) -> None:
        answer = await asker.ask(NAME, "secret")
        assert answer["error"]["code"] == "MODEL_UNREACHABLE"
        assert "certificate" in answer["content"].lower()

    with FakeOpenAI(tls=tls) as fake:
        with running(hive, "ai-openai", NAME, agent_config(fake, ca_file=str(bundle))):
            asking(hive, trusted)
        with running(hive, "ai-openai", NAME, agent_config(fake, attempts=1)):
            asking(hive, foreign)
    assert len(fake.requests) == 1


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server context for 127.0.0.1 with a certificate of its own, and the file that makes it trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fake")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    bundle, private = folder / "cert.pem", folder / "key.pem"
    bundle.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, private)
    return context, bundle
