"""Publishing a blob and waiting until other hives have it (``spec/node-protocol.md §6.5``).

A message can arrive before the blob that it refers to; whoever cannot wait for that at the other end asks the
orchestrators there first. Messages that arrive meanwhile are kept for the receiver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio
import msgspec

from appliance.wire import verbs
from appliance.wire.blob import (
    BLOB_FOLDER_ID,
    BLOB_SYNC_HINT_FAILED,
    BLOB_SYNC_HINT_TIMEOUT,
    BLOB_SYNC_HINT_TRANSPORT,
    BlobRef,
    blob_error,
)
from appliance.wire.envelope import system_message
from appliance.wire.errors import FluxbeeError, Invalid, Unreachable

from .node import Node

__all__ = ["PublishResult", "TargetResult", "publish_blob_and_confirm"]

_PAUSE_S: Final = 0.5
_LONGEST_S: Final = 300.0
_SHORTEST_S: Final = 0.001


class TargetResult(msgspec.Struct, frozen=True, kw_only=True):
    """One target that has the blob: who answered, with what, after how long."""

    target: str
    status: str
    elapsed_ms: int


class PublishResult(msgspec.Struct, frozen=True, kw_only=True):
    """Where the blob is; ``timeout_ms`` is what each target was given."""

    blob_ref: BlobRef
    timeout_ms: int
    targets: tuple[TargetResult, ...]


class _HintAnswer(msgspec.Struct):
    status: str
    error_code: str | None = None
    message: str | None = None


async def publish_blob_and_confirm(
    node: Node,
    data: bytes,
    name: str,
    mime: str | None = None,
    *,
    targets: Sequence[str],
    wait_for_idle: bool = True,
    timeout_s: float = 30.0,
) -> PublishResult:
    """Store ``data`` as a blob and return when every target says that it has it.

    Args:
        node: who publishes.
        data: the content.
        name: original file name.
        mime: MIME type; guessed from the name when ``None``.
        targets: hives, or full names of their orchestrators; asked one after the other.
        wait_for_idle: a target answers ``ok`` only when it has taken everything.
        timeout_s: for each target; 1 ms to 300 s.

    Raises:
        Invalid: no targets; or ``BLOB_INVALID_NAME``, ``BLOB_TOO_LARGE``.
        Unavailable: ``BLOB_IO_ERROR``; ``BLOB_SYNC_HINT_FAILED``: a target refused, or is not there. The blob
            is stored here all the same.
        Busy: ``BLOB_SYNC_HINT_TIMEOUT``; a target still takes it.
        Unreachable: ``BLOB_SYNC_HINT_TRANSPORT``; the router is gone.
    """
    if not targets:
        raise Invalid("targets is empty", field="targets")
    wait_s = min(max(timeout_s, _SHORTEST_S), _LONGEST_S)
    ref = await node.content.store(data, name, mime)
    results = [await _confirm(node, target, wait_s, wait_for_idle) for target in targets]
    return PublishResult(blob_ref=ref, timeout_ms=round(wait_s * 1000), targets=tuple(results))


async def _confirm(node: Node, given: str, wait_s: float, wait_for_idle: bool) -> TargetResult:
    target = given if "@" in given else f"SY.orchestrator@{given}"
    begun = anyio.current_time()
    while (left_s := begun + wait_s - anyio.current_time()) > 0:
        answer = await _hint(node, target, left_s, wait_for_idle)
        if answer.status == "ok":
            elapsed_ms = round((anyio.current_time() - begun) * 1000)
            return TargetResult(target=target, status=answer.status, elapsed_ms=elapsed_ms)
        if answer.status != "sync_pending":
            detail = f"{target} answered {answer.error_code or answer.status}: {answer.message or ''}"
            raise blob_error(BLOB_SYNC_HINT_FAILED, detail.rstrip(": "))
        await anyio.sleep(min(_PAUSE_S, max(0.0, begun + wait_s - anyio.current_time())))
    raise _timeout(target, wait_s)


async def _hint(node: Node, target: str, left_s: float, wait_for_idle: bool) -> _HintAnswer:
    payload = {
        "channel": "blob",
        "folder_id": BLOB_FOLDER_ID,
        "wait_for_idle": wait_for_idle,
        "timeout_ms": max(1, round(left_s * 1000)),
    }
    message = system_message(src=node.uuid, dst=target, verb=verbs.SYSTEM_SYNC_HINT, payload=payload)
    try:
        reply = await node.request(message, timeout_s=left_s)
        return reply.payload_as(_HintAnswer)
    except Unreachable as error:
        if error.code != "TIMEOUT":
            raise blob_error(BLOB_SYNC_HINT_FAILED, f"{target}: {error.message}") from error
        if node.is_connected:
            raise _timeout(target, left_s) from error
        raise blob_error(BLOB_SYNC_HINT_TRANSPORT, f"{target}: {error.message}") from error
    except Invalid as error:
        raise blob_error(BLOB_SYNC_HINT_FAILED, f"{target}: {error.message}") from error
    except FluxbeeError as error:
        raise blob_error(BLOB_SYNC_HINT_TRANSPORT, f"{target}: {error.message}") from error


def _timeout(target: str, wait_s: float) -> FluxbeeError:
    return blob_error(BLOB_SYNC_HINT_TIMEOUT, f"{target} did not confirm within {wait_s:g} s")
