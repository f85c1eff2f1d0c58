"""The chat completions API: request and answer, and trying again where that may help.

What comes back is checked against Structs before anything uses it. 429, 5xx, time-outs and broken
connections are tried again after growing pauses, or when the endpoint says; everything else fails at once,
with words that tell an operator what to change.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec
import trio

from appliance.system.log import get_logger
from appliance.wire.errors import Busy, FluxbeeError, Refused, Unavailable, Unreachable

from .http import Response, post
from .settings import Settings, endpoint_of

__all__ = ["Call", "ChatMessage", "Completion", "Usage", "complete", "pause_s"]

log = get_logger("ai.openai")

BASE_PAUSE_S = 0.5
CAP_PAUSE_S = 20.0
_LATER = "Ask again later."


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One function that the model wants called; ``arguments`` is JSON text of its making."""

    class Function(msgspec.Struct, frozen=True):
        """Name and arguments."""

        name: str
        arguments: str = "{}"

    id: str
    function: Function
    type: str = "function"


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of the conversation, in either direction."""

    role: str
    content: str | None = None
    tool_calls: tuple[Call, ...] | None = None
    tool_call_id: str | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens, as the endpoint counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an answer that is used."""

    class Choice(msgspec.Struct, frozen=True, kw_only=True):
        """One of them; there is one unless more are asked for."""

        message: ChatMessage
        finish_reason: str | None = None

    choices: tuple[Choice, ...]
    usage: Usage | None = None


class _Fault(msgspec.Struct):
    class Body(msgspec.Struct):
        message: str = ""

    error: Body


async def complete(
    settings: Settings, messages: Sequence[ChatMessage], tools: Sequence[dict[str, object]]
) -> Completion:
    """Ask the model once, trying again as the settings allow.

    Raises:
        Refused: key, model or request are wrong; asking again does not help.
        Busy: the endpoint limits us, beyond what waiting could do.
        Unreachable, Unavailable: no usable answer.
    """
    body: dict[str, object] = {"model": settings.model, "messages": list(messages)}
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if settings.max_tokens is not None:
        body["max_tokens"] = settings.max_tokens
    if tools:
        body["tools"] = list(tools)
    encoded = msgspec.json.encode(body)
    for attempt in range(1, settings.attempts + 1):
        wait_s: float | None = None
        try:
            response = await _post(settings, encoded)
            wait_s = _retry_after_s(response)
            return _read(response)
        except (Busy, Unavailable, Unreachable) as error:
            if attempt == settings.attempts:
                raise
            wait_s = pause_s(attempt, wait_s)
            log.info("model_call_repeated", attempt=attempt, reason=error.code, wait_s=round(wait_s, 2))
            await trio.sleep(wait_s)
    raise AssertionError("attempts is at least 1")


def pause_s(attempt: int, asked_s: float | None, chance: Callable[[], float] = random.random) -> float:
    """How long to wait after the failed ``attempt``: what was asked for, else doubling with jitter."""
    if asked_s is not None:
        return min(max(asked_s, 0.0), CAP_PAUSE_S)
    return float(min(BASE_PAUSE_S * 2 ** (attempt - 1), CAP_PAUSE_S)) * (0.5 + chance() / 2)


async def _post(settings: Settings, body: bytes) -> Response:
    endpoint = endpoint_of(settings)
    headers = {"User-Agent": "fluxbee-ai-openai/1.0"}
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    return await post(
        endpoint.host,
        endpoint.port,
        endpoint.path,
        body,
        headers=headers,
        is_secure=endpoint.is_secure,
        timeout_s=settings.timeout_s,
        ca_file=settings.ca_file,
    )


def _retry_after_s(response: Response) -> float | None:
    try:
        return float(response.headers.get("retry-after", ""))
    except ValueError:
        return None  # none, or a date, which boxes without a clock cannot read


def _read(response: Response) -> Completion:
    if response.status != 200:
        raise _error_of(response)
    try:
        answer = msgspec.json.decode(response.body, type=Completion)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unavailable(
            "the model's answer is not what the API promises",
            code="MODEL_GARBAGE",
            remedy="Check that base_url is an endpoint of the chat completions API.",
        ) from None
    if not answer.choices:
        raise Unavailable("the model's answer has no choice", code="MODEL_GARBAGE", remedy=_LATER)
    return answer


def _error_of(response: Response) -> FluxbeeError:
    try:
        told = msgspec.json.decode(response.body, type=_Fault).error.message[:300]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = ""
    said = f" ({told})" if told else ""
    status = response.status
    if status in (401, 403):
        return Refused(
            f"the model endpoint refuses the API key{said}",
            code="MODEL_KEY_REFUSED",
            remedy="Set api_key with CONFIG_SET, or OPENAI_API_KEY.",
        )
    if status == 429:
        return Busy(f"the model endpoint is busy or the quota is used up{said}", code="MODEL_BUSY")
    if status >= 500 or status == 408:
        return Unavailable(
            f"the model endpoint failed with HTTP {status}{said}", code="MODEL_FAILED", remedy=_LATER
        )
    return Refused(
        f"the model endpoint refuses the request with HTTP {status}{said}",
        code="MODEL_REFUSED",
        remedy="Check base_url and model.",
    )
