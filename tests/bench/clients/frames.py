"""Preformatted messages for the benchmarks (``spec/node-protocol.md §1.3, §2``).

Every message has its own trace id; the last twelve hex digits of it are the sequence number. ``thread``
puts a ``thread_id`` into ``meta`` (eight turns per thread, threads interleaved, so that ``thread_seq``
keeps one digit and all messages of a run have one delivered length), ``io`` a unique
``context.io.message.id``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Shape", "broadcast_messages", "frame", "hello", "in_batches", "messages", "sequence_of"]

TURNS_PER_THREAD = 8
_TRACE = b'"trace_id":"'


class Shape(NamedTuple):
    """Size and kind of the messages of a run: ``whole_bytes`` of JSON, or a payload of ``payload_bytes``."""

    variant: str = "io"
    whole_bytes: int = 0
    payload_bytes: int = 0


def frame(body: bytes) -> bytes:
    """``body`` with its length in front."""
    return len(body).to_bytes(4, "big") + body


def hello(uuid: str, name: str) -> bytes:
    """The first frame of a connection."""
    body = (
        '{"routing":{"src":"%s","dst":null,"ttl":1,"trace_id":"%s"},"meta":{"type":"system","msg":"HELLO"},'
        '"payload":{"uuid":"%s","name":"%s","version":"1.0"}}'
    )
    return frame((body % (uuid, uuid, uuid, name)).encode())


class _Parts(NamedTuple):
    """A message cut at its two varying places: trace counter and thread or message counter."""

    head: bytes
    middle: bytes
    tail: bytes


def _parts(src: str, dst: str, shape: Shape, *, salt: str, target: str | None) -> _Parts:
    quoted = f'"{dst}"'
    head = (
        f'{{"routing":{{"src":"{src}","dst":{quoted},"ttl":16,"trace_id":"{salt[:8]}-{salt[8:12]}-4000-8000-'
    ).encode()
    aim = f',"target":"{target}"' if target else ""
    if shape.variant == "thread":
        thread = f"thread:sha256:{salt[:12]}{'0' * 40}"
        middle = f'"}},"meta":{{"type":"user"{aim},"thread_id":"{thread}'.encode()
        after = b'"},"payload":'
    else:
        context = f'"context":{{"io":{{"channel":"slack","message":{{"id":"{salt[:8]}-'
        middle = f'"}},"meta":{{"type":"user"{aim},{context}'.encode()
        after = b'"}}}},"payload":'
    fixed = len(head) + 12 + len(middle) + 12 + len(after) + 1
    size = shape.payload_bytes or shape.whole_bytes - fixed
    return _Parts(head, middle, after + _payload(size) + b"}")


def _payload(size: int) -> bytes:
    """A JSON object of exactly ``size`` bytes, a text payload where it fits."""
    for before, behind in ((b'{"type":"text","content":"', b'","attachments":[]}'), (b'{"c":"', b'"}')):
        room = size - len(before) - len(behind)
        if room >= 0:
            text = (b"All work and no play makes a dull bee. " * (room // 39 + 1))[:room]
            return before + text + behind
    raise ValueError(f"a payload of {size} bytes holds no JSON object of ours")


def messages(
    src: str, dst: list[str], count: int, shape: Shape, *, salt: str | None = None, target: str | None = None
) -> Iterator[bytes]:
    """``count`` JSON messages from ``src`` to the names of ``dst`` in turn, without length prefix."""
    salt = salt or secrets.token_hex(6)
    cut = [_parts(src, name, shape, salt=salt, target=target) for name in dst]
    threads = max(1, -(-count // TURNS_PER_THREAD)) if shape.variant == "thread" else count
    several = len(cut)
    head, middle, tail = cut[0]
    for number in range(count):
        if several > 1:
            head, middle, tail = cut[number % several]
        yield b"%b%012x%b%012x%b" % (head, number, middle, number % threads, tail)


def broadcast_messages(src: str, count: int, shape: Shape, target: str) -> Iterator[bytes]:
    """``count`` broadcasts to the nodes that ``target`` selects; each trace id is new, as §3.4 asks."""
    return messages(src, ["broadcast"], count, shape, target=target)


def in_batches(bodies: Iterator[bytes], per_write: int) -> list[bytes]:
    """The frames of ``bodies`` joined, ``per_write`` to one write."""
    batches: list[bytes] = []
    batch: list[bytes] = []
    for body in bodies:
        batch.append(len(body).to_bytes(4, "big"))
        batch.append(body)
        if len(batch) == 2 * per_write:
            batches.append(b"".join(batch))
            batch.clear()
    if batch:
        batches.append(b"".join(batch))
    return batches


def sequence_of(message: bytes) -> tuple[bytes, int] | None:
    """Run salt and sequence number in the trace id of ``message``; ``None`` when it is not one of ours."""
    at = message.find(_TRACE)
    if at < 0:
        return None
    trace = message[at + len(_TRACE) : at + len(_TRACE) + 36]
    if trace[13:24] != b"-4000-8000-":
        return None
    return trace[:13], int(trace[24:], 16)
