"""What ``config.json`` of this node may say.

The keys are flat, because a configuration is merged key by key: a package on top of this one, or an operator,
changes ``model`` without repeating anything else. The API key is a secret: CONFIG_SET stores it in
``secrets.json``; ``OPENAI_API_KEY`` of the environment counts when there is none.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from appliance.sdk import SecretDescriptor
from appliance.wire.errors import Invalid

__all__ = ["API_KEY", "Endpoint", "Settings", "Tool", "endpoint_of"]

API_KEY = SecretDescriptor(field="api_key", storage_key="openai_api_key")

Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """Something the model may call.

    Attributes:
        name: what the model calls it.
        kind: ``now`` tells the time; ``send_message`` asks another node and returns its answer.
        description: tells the model what it is for.
        to: ``send_message``: the node. Without it the model chooses one that ``allow`` matches.
        allow: ``send_message`` without ``to``: patterns of full names, such as ``AI.*@motherbee``.
        wait_s: ``send_message``: how long an answer may take.
    """

    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    kind: Literal["now", "send_message"]
    description: str = ""
    to: str | None = None
    allow: tuple[str, ...] = ()
    wait_s: Seconds = 20.0

    def __post_init__(self) -> None:
        if self.kind == "send_message" and not self.to and not self.allow:
            raise ValueError(f"tool {self.name}: give `to` or `allow`")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``config.json``.

    Attributes:
        base_url: of the endpoint; ``/chat/completions`` is added.
        model: the endpoint's name for it.
        api_key: better by CONFIG_SET or in the environment than in ``config.json``.
        system_prompt: what the agent is.
        temperature, max_tokens: given to the model when set.
        tools: what the model may call.
        tool_rounds: model calls for one message at most.
        deadline_s: for one message, everything together.
        timeout_s: for one call of the model.
        attempts: tries of one call, where another one may help.
        concurrency: messages worked on at once; read at start.
        memory_turns, memory_chars: how much of a thread goes to the model again.
        memory_threads: threads remembered; the one unused for longest is forgotten.
        input_chars: of one message that go to the model.
        errors: ``text`` tells them in words, for people; ``payload`` as ``{"type":"error"}``, for programs.
        ca_file: certificates to trust instead of the system's.
        allow_insecure_key: send the key over plain http to another machine.
    """

    base_url: str = "https://api.openai.com/v1"
    model: str = "gpt-4o-mini"
    api_key: str | None = None
    system_prompt: str = "You are a helpful assistant."
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    max_tokens: Count | None = None
    tools: tuple[Tool, ...] = ()
    tool_rounds: Annotated[int, msgspec.Meta(ge=1, le=32)] = 8
    deadline_s: Seconds = 90.0
    timeout_s: Seconds = 60.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=10)] = 4
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    memory_turns: Annotated[int, msgspec.Meta(ge=0, le=200)] = 12
    memory_chars: Count = 16_000
    memory_threads: Count = 500
    input_chars: Count = 16_000
    errors: Literal["text", "payload"] = "text"
    ca_file: str | None = None
    allow_insecure_key: bool = False

    def __post_init__(self) -> None:
        try:
            endpoint_of(self)
        except Invalid as error:
            raise ValueError(error.message) from None  # which the decoder reports with the other mistakes
        names = [tool.name for tool in self.tools]
        if len(set(names)) != len(names):
            raise ValueError("two tools have one name")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where to call, taken apart. ``api_key`` never shows in a ``repr``."""

    host: str
    port: int
    path: str
    is_secure: bool
    api_key: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.host}:{self.port}{self.path})"


def endpoint_of(settings: Settings) -> Endpoint:
    """The endpoint of ``settings``.

    Raises:
        Invalid: no http(s) address, or a key that would travel over a network in the clear.
    """
    url = urlsplit(settings.base_url.strip())
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query or url.fragment:
        raise Invalid("base_url is no address such as https://api.openai.com/v1", field="base_url")
    try:
        port = url.port
    except ValueError:
        raise Invalid("base_url has no valid port", field="base_url") from None
    key = settings.api_key or os.environ.get("OPENAI_API_KEY") or None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise Invalid("api_key has characters that no key has", field="api_key")
    is_secure = url.scheme == "https"
    if key and not is_secure and not settings.allow_insecure_key and not _is_here(url.hostname):
        raise Invalid(
            "base_url is plain http to another machine: the API key would travel in the clear",
            field="base_url",
            remedy="Use https, or set allow_insecure_key.",
        )
    return Endpoint(
        host=url.hostname,
        port=port or (443 if is_secure else 80),
        path=url.path.rstrip("/") + "/chat/completions",
        is_secure=is_secure,
        api_key=key,
    )


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
