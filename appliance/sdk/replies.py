"""Building the answer to a message (``spec/node-protocol.md §5, §6.6``).

An answer goes to the asking connection's uuid under the same trace. What else it carries over depends on what
was asked: a user message keeps its meta, so that ``context.io.reply_target`` and the thread survive; a system
request gets the response verb; a command or query the response type. Pure functions.
"""

from __future__ import annotations

import msgspec

from appliance.wire import verbs
from appliance.wire.envelope import Message, Meta, build_message, raw_json
from appliance.wire.errors import Busy, FluxbeeError, Unavailable, Unreachable
from appliance.wire.text import TextPayload

from .requests import is_router_error

__all__ = ["deserves_answer", "error_payload", "payload_of_error", "reply", "system_reply", "text_payload"]

_RESPONSE_TYPES = {verbs.COMMAND: verbs.COMMAND_RESPONSE, verbs.QUERY: verbs.QUERY_RESPONSE}
_NEVER_ANSWERED = frozenset({verbs.COMMAND_RESPONSE, verbs.QUERY_RESPONSE})
_CONTEXT_OF_ONE_TURN = ("thread_id", "src_ilk", "response_envelope")


def error_payload(
    code: str, message: str, *, retryable: bool = False, details: object = None
) -> dict[str, object]:
    """``{"type":"error",…}``: how a node tells another that it could not handle a message.

    Args:
        code: stable word for programs; those in use are listed in ``spec/node-protocol.md §6.6``.
        message: one sentence for people.
        retryable: whether the same message may succeed later.
        details: JSON values; left out when ``None``.
    """
    body: dict[str, object] = {"type": "error", "code": code, "message": message, "retryable": retryable}
    return body if details is None else {**body, "details": details}


def payload_of_error(error: Exception) -> dict[str, object]:
    """The error payload for an exception; of a foreign one only the class name leaves the process."""
    if isinstance(error, FluxbeeError):
        retryable = isinstance(error, Busy | Unavailable | Unreachable)
        return error_payload(error.code, error.message, retryable=retryable)
    return error_payload("INTERNAL", f"the handler failed: {type(error).__name__}")


def text_payload(content: str) -> dict[str, object]:
    """``content`` as an inline ``text/v1`` payload; the sender off-loads it to a blob when it is long."""
    return TextPayload(content=content).to_payload()


def deserves_answer(message: Message) -> bool:
    """Whether a failure may be reported back to the sender of ``message``.

    Router-made errors, responses, system floods, error payloads and broadcasts never get one: two nodes that
    answer each other's errors would never stop (``spec/node-protocol.md §9-12``).
    """
    if is_router_error(message) or not message.routing.src or message.routing.dst == verbs.BROADCAST:
        return False
    if message.meta.type in _NEVER_ANSWERED or message.meta.type == verbs.SYSTEM:
        return False
    return not _is_error(message.payload)


class _Kind(msgspec.Struct):
    type: object = None


def _is_error(payload: msgspec.Raw) -> bool:
    try:
        return msgspec.json.decode(payload, type=_Kind).type == "error"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def reply(
    request: Message,
    payload: object,
    *,
    src: str = "",
    ttl: int = verbs.DEFAULT_TTL,
    keep_contract: bool = False,
) -> Message:
    """An answer to ``request``.

    The meta is the request's without ``thread_seq``, ``ctx*``, ``memory_package``, and without
    ``context.thread_id``, ``context.src_ilk`` and ``context.response_envelope``; ``src_ilk`` is not swapped.
    ``command`` and ``query`` turn into their response types, a system request into its ``_RESPONSE`` verb.

    Args:
        request: what is answered.
        payload: JSON values, a Struct, or :class:`msgspec.Raw`.
        src: uuid of the answering connection; the SDK's sender fills it in when empty.
        ttl: hop budget.
        keep_contract: keep ``context.final_response_contract``.
    """
    if request.meta.type == verbs.SYSTEM:
        return system_reply(request, payload, src=src, ttl=ttl)
    meta = msgspec.structs.replace(
        request.meta,
        type=_RESPONSE_TYPES.get(request.meta.type, request.meta.type),
        thread_seq=None,
        ctx=None,
        ctx_seq=None,
        ctx_window=None,
        memory_package=None,
        context=_context(request.meta.context, keep_contract=keep_contract),
    )
    if meta.type != request.meta.type:
        meta.msg = meta.target = None
    return build_message(
        src=src,
        dst=request.routing.src,
        payload=payload,
        meta=meta,
        ttl=ttl,
        trace_id=request.routing.trace_id,
    )


def _context(context: msgspec.Raw | None, *, keep_contract: bool) -> msgspec.Raw | None:
    if context is None:
        return None
    dropped = _CONTEXT_OF_ONE_TURN if keep_contract else (*_CONTEXT_OF_ONE_TURN, "final_response_contract")
    try:
        parts = msgspec.json.decode(context, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return context  # not an object: nothing of it belongs to one turn
    if not any(key in parts for key in dropped):
        return context
    return raw_json({key: value for key, value in parts.items() if key not in dropped})


def system_reply(
    request: Message, payload: object, *, verb: str | None = None, src: str = "", ttl: int = verbs.DEFAULT_TTL
) -> Message:
    """Answer a system request: ``msg`` is ``verb`` or ``<asked>_RESPONSE``, ``action`` what was asked."""
    asked = request.meta.msg or ""
    meta = Meta(type=verbs.SYSTEM, msg=verb or verbs.response_verb(asked), action=asked or None)
    return build_message(
        src=src,
        dst=request.routing.src,
        payload=payload,
        meta=meta,
        ttl=ttl,
        trace_id=request.routing.trace_id,
    )
