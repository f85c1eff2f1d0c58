"""Publishing without end: one JSON event per line (``application/x-ndjson``), one answer line per flush.

Additive to ``spec/flux-state.md §2.1``. Lines are put together to batches while more are there, so a fast
sender pays one commit for many events and a slow one waits for nobody. An answer line says how many events
were taken and which lines were not; it is written after the commit, so what is acknowledged is stored.
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio
from starlette.requests import ClientDisconnect

from appliance.wire.errors import Busy, FluxbeeError, Invalid
from appliance.world import Caller, WorldEngine

from .call import Call

__all__ = ["NDJSON", "is_ndjson", "publish_stream"]

NDJSON: Final = "application/x-ndjson"
_FLUSH_EVENTS: Final = 1000
_FLUSH_BYTES: Final = 1 << 20
_LINGER_S: Final = 0.005
_IDLE_S: Final = 600.0
_PATIENCE_S: Final = 30.0
"""How long a full world is waited for before the stream ends."""


class _LineError(msgspec.Struct, frozen=True):
    line: int
    error: str


class _Ack(msgspec.Struct, frozen=True, kw_only=True):
    """``lines`` were read so far, blank ones included; ``errors`` name them from 1."""

    lines: int
    successful: int = 0
    failed: int = 0
    errors: list[_LineError] = []
    error: str | None = None  # why the stream ends early


_one_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def is_ndjson(content_type: str | None) -> bool:
    """Whether the body is a stream of lines."""
    return content_type is not None and content_type.split(";")[0].strip().lower() == NDJSON


class _Lines:
    """Cuts chunks into numbered lines."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self.count = 0
        self.ready: list[tuple[int, bytes]] = []
        self.ready_bytes = 0

    def feed(self, chunk: bytes, *, last: bool) -> None:
        # Only what is new is looked at: a long line in tiny chunks must not cost its length for each of them.
        parts = chunk.split(b"\n")
        tail = parts.pop()
        if parts:
            parts[0] = bytes(self._rest) + parts[0]
            self._rest.clear()
        self._rest += tail
        if last and self._rest:
            parts.append(bytes(self._rest))
            self._rest.clear()
        for part in parts:
            self.count += 1
            if text := part.strip():
                self.ready.append((self.count, text))
                self.ready_bytes += len(text)
        if len(self._rest) > self._limit:
            raise Invalid(f"line {self.count + 1} is longer than {self._limit} bytes")

    def take(self) -> list[tuple[int, bytes]]:
        taken, self.ready = self.ready[:_FLUSH_EVENTS], self.ready[_FLUSH_EVENTS:]
        self.ready_bytes = sum(len(text) for _, text in self.ready)
        return taken

    @property
    def begun(self) -> bool:
        """Whether a line has begun whose end is not there yet."""
        return bool(self._rest)

    @property
    def full(self) -> bool:
        return len(self.ready) >= _FLUSH_EVENTS or self.ready_bytes >= _FLUSH_BYTES


async def publish_stream(call: Call, engine: WorldEngine, caller: Caller) -> None:
    """Read events until the client ends its body; answers as it goes."""
    lines = _Lines(engine.config.body_size_limit_single_bytes)
    headers = [(b"content-type", NDJSON.encode()), (b"cache-control", b"no-store")]
    await call.send({"type": "http.response.start", "status": 200, "headers": headers})
    more = True
    try:
        while more:
            more = await _read(call, lines)
            while lines.ready:
                await _answer(call, await _flush(engine, caller, lines.take()))
    except FluxbeeError as error:
        await _answer(call, _Ack(lines=lines.count, error=error.message))
    await call.send({"type": "http.response.body", "body": b""})


async def _answer(call: Call, ack: _Ack) -> None:
    await call.send(
        {"type": "http.response.body", "body": msgspec.json.encode(ack) + b"\n", "more_body": True}
    )


async def _read(call: Call, lines: _Lines) -> bool:
    """Take what is there; returns whether more may come. Waits long only while nothing is pending.

    Raises:
        Invalid: a line is too long, or its end does not come.
    """
    line_by = trio.current_time() + _PATIENCE_S
    while not lines.full:
        message = None
        wait_by = line_by if lines.begun else trio.current_time() + _IDLE_S
        if lines.ready:
            wait_by = trio.current_time() + _LINGER_S
        with trio.move_on_at(wait_by):
            message = await call.receive()
        if message is None:
            if lines.begun and not lines.ready:
                raise Invalid(f"line {lines.count + 1} did not end within {_PATIENCE_S:g} s")
            return bool(lines.ready)
        if not lines.begun:
            line_by = trio.current_time() + _PATIENCE_S
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = bool(message.get("more_body", False))
        lines.feed(message.get("body", b""), last=not more)
        if not more:
            return False
    return True


async def _flush(engine: WorldEngine, caller: Caller, taken: list[tuple[int, bytes]]) -> _Ack:
    """Publish lines as one batch; a line that is no JSON spoils the batch's text, so then each goes alone."""
    try:
        results = await _publish(engine, caller, [text for _, text in taken])
    except Invalid:
        results = []
        for _, text in taken:
            try:
                results += await _publish(engine, caller, [text])
            except Invalid as error:
                results.append(error.message)
    errors = [
        _LineError(number, error)
        for (number, _), error in zip(taken, results, strict=True)
        if error is not None
    ]
    return _Ack(lines=taken[-1][0], successful=len(taken) - len(errors), failed=len(errors), errors=errors)


async def _publish(engine: WorldEngine, caller: Caller, texts: list[bytes]) -> list[str | None]:
    """What was wrong with each event; a full world is waited for, which holds the sender back."""
    if any(_is_no_object(text) for text in texts):
        raise Invalid("every line must hold one JSON object")
    body = b'{"events":[%b]}' % b",".join(texts)
    deadline = trio.current_time() + _PATIENCE_S
    while True:
        try:
            report = await engine.publish_batch(body, caller)
            return [result.error for result in report.results]
        except Busy as busy:
            if trio.current_time() + busy.retry_after_s > deadline:
                raise
            await trio.sleep(busy.retry_after_s)


def _is_no_object(text: bytes) -> bool:
    """Whether ``text`` is not exactly one JSON object: put together, lines must not change their number."""
    try:
        _one_object.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return True
    return False
