"""A client process: reads commands as JSON lines on stdin, answers with JSON lines on stdout.

``python -S -m tests.bench.clients.client``. Everything slow (connecting, formatting messages) happens in a
command of its own, so that the timed ones only move bytes. Every wait ends: sockets have kernel time-outs,
loops have deadlines, and the end of stdin ends the program. Times are CLOCK_MONOTONIC nanoseconds, which
all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
import struct
import sys
import time
from array import array
from collections.abc import Callable

from .frames import Shape, frame, messages
from .links import Link, open_link

__all__ = ["Answer", "Client", "main", "summary"]

_HEX48 = (1 << 48) - 1
_now = time.monotonic_ns
Answer = dict[str, object]


class Client:
    """Holds the links of this process and carries out one command at a time."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.writes: list[bytes] = []
        self.prepared = 0

    def do(self, command: dict[str, object]) -> Answer:
        """Carry out ``command``; what fails comes back as ``{"error": …}``."""
        name = str(command.pop("do"))
        action: Callable[..., Answer] = getattr(self, f"do_{name}")
        try:
            return action(**command)
        except (OSError, ValueError, AssertionError) as error:
            return {"error": f"{name}: {type(error).__name__}: {error}"}

    def do_pin(self, cpu: int) -> Answer:
        """Stay on one CPU."""
        os.sched_setaffinity(0, {cpu})
        return {}

    def do_open(
        self,
        kind: str,
        address: str,
        nodes: list[tuple[str, str]],
        subjects: list[str] | None = None,
        patience_s: float = 10.0,
    ) -> Answer:
        """Connect one link per ``(uuid, name)``; returns the names that the other side gave."""
        for uuid, name in nodes:
            link = open_link(
                kind, address, uuid=uuid, name=name, subjects=subjects or [], patience_s=patience_s
            )
            self.links.append(link)
        return {"names": [link.name for link in self.links]}

    def do_close(self) -> Answer:
        """Close all links."""
        for link in self.links:
            link.close()
        self.links.clear()
        self.writes.clear()
        return {}

    # Sending.

    def do_prepare(
        self,
        to: list[str],
        count: int,
        per_write: int,
        shape: list[object],
        target: str | None = None,
        dst: list[str] | None = None,
    ) -> Answer:
        """Format ``count`` messages to the names of ``to`` in turn, joined for writing.

        ``dst`` says what stands in ``routing.dst`` where that is not the name (``broadcast``).
        """
        link = self.links[0]
        bodies = messages(link.source, dst or to, count, Shape(*shape), target=target)  # type: ignore[arg-type]
        self.writes = link.dress(bodies, per_write, to)
        self.prepared = count
        gc.freeze()
        return {"writes": len(self.writes), "bytes": sum(map(len, self.writes))}

    def do_send(self, at_ns: int = 0) -> Answer:
        """Send what is prepared, from ``at_ns`` on, as fast as the socket takes it."""
        send = self.links[0].sock.sendall
        writes = self.writes
        _sleep_until(at_ns)
        began = _now()
        for data in writes:
            send(data)
        ended = _now()
        return {"began_ns": began, "ended_ns": ended, "messages": self.prepared}

    # Receiving.

    def do_receive(
        self, expect: int, quiet_s: float = 2.0, work_us: float = 0.0, limit_s: float = 20.0
    ) -> Answer:
        """Count what arrives on all links.

        Ends when ``expect`` messages are there, nothing came for ``quiet_s``, or after ``limit_s``.
        ``work_us`` is how long this recipient is busy with each message.
        """
        if len(self.links) == 1:
            return self._receive_one(expect, quiet_s, work_us, limit_s)
        return self._receive_many(expect, quiet_s, limit_s)

    def _receive_one(self, expect: int, quiet_s: float, work_us: float, limit_s: float) -> Answer:
        link = self.links[0]
        _set_receive_timeout(link.sock, quiet_s)
        counter = link.counter()
        receive = link.sock.recv_into
        first = last = 0
        give_up = _now() + int(limit_s * 1e9)
        at_once = 1 << 14 if work_us else 1 << 20  # a slow recipient takes little at a time
        while counter.messages < expect:
            try:
                size = receive(counter.room()[:at_once])
            except BlockingIOError:
                break
            if not size:
                break
            done = counter.took(size)
            last = _now()
            first = first or last
            if work_us and done:
                _spin(int(done * work_us * 1000))
            if last > give_up:
                break
        return {
            "messages": counter.messages,
            "other": counter.other,
            "bytes": counter.bytes,
            "samples": counter.samples,
            "disordered": counter.disordered,
            "notices": counter.notices,
            "first_ns": first,
            "last_ns": last,
        }

    def _receive_many(self, expect: int, quiet_s: float, limit_s: float) -> Answer:
        counters = {link.sock.fileno(): (link.sock, link.counter()) for link in self.links}
        total = other = 0
        first = last = 0
        give_up = _now() + int(limit_s * 1e9)
        with select.epoll() as poll:
            for fd in counters:
                poll.register(fd, select.EPOLLIN)
            while total < expect:
                ready = poll.poll(quiet_s)
                if not ready:
                    break
                for fd, _ in ready:
                    sock, counter = counters[fd]
                    size = sock.recv_into(counter.room(), 0, socket.MSG_DONTWAIT)
                    if not size:
                        poll.unregister(fd)
                        continue
                    total += counter.took(size)
                last = _now()
                first = first or last
                if last > give_up:
                    break
        all_counters = [counter for _, counter in counters.values()]
        other = sum(counter.other for counter in all_counters)
        return {
            "messages": total,
            "other": other,
            "bytes": sum(counter.bytes for counter in all_counters),
            "samples": sum(counter.samples for counter in all_counters),
            "disordered": sum(counter.disordered for counter in all_counters),
            "fewest": min(counter.messages for counter in all_counters),
            "most": max(counter.messages for counter in all_counters),
            "notices": {},
            "first_ns": first,
            "last_ns": last,
        }

    def do_drain(self, quiet_s: float = 0.2) -> Answer:
        """Take whatever is still on its way."""
        return self._receive_many(1 << 60, quiet_s, 20.0)

    # Round trips.

    def do_ping(self, count: int, warm: int) -> Answer:
        """Send prepared writes, each after the answer to the one before; times of the last ``count``."""
        link = self.links[0]
        length = self._exchange(warm, first=True)
        buffer = memoryview(bytearray(1 << 18))
        times = array("q")
        receive, send = link.sock.recv_into, link.sock.sendall
        for data in self.writes[warm : warm + count]:
            began = _now()
            send(data)
            size = receive(buffer)
            while size < length:
                size += receive(buffer[size:])
            took = _now() - began
            if size == length:
                times.append(took)
            else:
                extra = size - length
                if not link.chatter(bytes(buffer[:extra])) and not link.chatter(bytes(buffer[length:size])):
                    raise ValueError(f"an answer of {size} bytes instead of {length}")
        return summary(times)

    def do_echo(self, count: int, warm: int) -> Answer:
        """Answer each of ``count`` messages with the next prepared write."""
        link = self.links[0]
        length = self._exchange(warm, first=False)
        buffer = memoryview(bytearray(1 << 18))
        receive, send = link.sock.recv_into, link.sock.sendall
        for data in self.writes[warm:count]:
            size = receive(buffer)
            while size < length:
                size += receive(buffer[size:])
            if size > length:
                link.chatter(bytes(buffer[: size - length]))
            send(data)
        return {"messages": count}

    def _exchange(self, count: int, *, first: bool) -> int:
        """Exchange ``count`` messages with care; returns how long what arrives is."""
        link = self.links[0]
        counter = link.counter()
        for data in self.writes[:count]:
            if first:
                link.sock.sendall(data)
            while not counter.took(link.sock.recv_into(counter.room())):
                pass
            if not first:
                link.sock.sendall(data)
        length, rest = divmod(counter.message_bytes, count)
        if rest:
            raise ValueError("answers differ in length")
        return length

    # Latency under a stalled neighbour.

    def do_pace(self, to: list[str], ticks: int, tick_us: int, shape: list[object], at_ns: int = 0) -> Answer:
        """Each tick send one message to every name of ``to``; the trace id tells the time of sending."""
        link = self.links[0]
        stamped = [_Stamped(link.source, name, Shape(*shape)) for name in to]  # type: ignore[arg-type]
        counter = link.counter()
        sock = link.sock
        send = sock.sendall
        late = 0
        due = max(at_ns, _now())
        for _ in range(ticks):
            _sleep_until(due)
            for one in stamped:
                send(one.now())
            with contextlib.suppress(BlockingIOError):
                # Notices about the stalled recipient come back to us; unread, we would be stalled ourselves.
                counter.took(sock.recv_into(counter.room(), 0, socket.MSG_DONTWAIT))
            due += tick_us * 1000
            if _now() > due:
                late += 1
        return {"messages": ticks * len(to), "late_ticks": late, "notices": counter.notices}

    def do_latency(self, expect: int, quiet_s: float = 1.0) -> Answer:
        """How long the stamped messages on all links were on their way."""
        times = array("q")
        rest = {link.sock.fileno(): (link.sock, bytearray()) for link in self.links}
        with select.epoll() as poll:
            for fd in rest:
                poll.register(fd, select.EPOLLIN)
            while len(times) < expect and (ready := poll.poll(quiet_s)):
                for fd, _ in ready:
                    sock, held = rest[fd]
                    held += sock.recv(65536, socket.MSG_DONTWAIT)
                    _latencies(held, _now(), times)
        return summary(times)

    def do_stuff(self, to: str, payload_bytes: int, limit: int, blocked_s: float = 0.5) -> Answer:
        """Send large messages to one who does not read, until the router says so or stops reading us."""
        link = self.links[0]
        sock = link.sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, int(blocked_s * 1e6)))
        counter = link.counter()
        sent = 0
        blocked = False
        for body in messages(link.source, [to], limit, Shape("io", 0, payload_bytes)):
            try:
                sock.sendall(frame(body))
                sent += 1
            except BlockingIOError:
                blocked = True  # the rest of this message never follows: the link must not be used again
                break
            try:
                counter.took(sock.recv_into(counter.room(), 0, socket.MSG_DONTWAIT))
            except BlockingIOError:
                time.sleep(0.001)
            if counter.notices:
                break
        return {"sent": sent, "blocked": blocked, "notices": counter.notices}


class _Stamped:
    """A frame whose counters are overwritten with the time of sending."""

    def __init__(self, src: str, dst: str, shape: Shape) -> None:
        body = next(messages(src, [dst], 1, shape))
        self._frame = bytearray(frame(body))
        trace = self._frame.index(b'"trace_id":"') + len(b'"trace_id":"') + 24
        other = self._frame.index(b"0" * 12, trace + 12)
        self._trace = slice(trace, trace + 12)
        self._other = slice(other, other + 12)

    def now(self) -> bytearray:
        stamp = b"%012x" % (_now() & _HEX48)
        self._frame[self._trace] = stamp
        self._frame[self._other] = stamp
        return self._frame


def _latencies(held: bytearray, now: int, times: array[int]) -> None:
    """Take the whole frames out of ``held`` and note how old each is."""
    at = 0
    while len(held) - at >= 4:
        length = int.from_bytes(held[at : at + 4], "big") + 4
        if len(held) - at < length:
            break
        trace = held.find(b'"trace_id":"', at, at + length)
        if trace >= 0 and held.find(b'"type":"user"', at, at + length) >= 0:
            sent = int(held[trace + 36 : trace + 48], 16)
            times.append((now - sent) & _HEX48)
        at += length
    del held[:at]


def summary(times: array[int]) -> Answer:
    """Count, median, percentiles and worst of ``times`` (nanoseconds)."""
    ordered = sorted(times)
    if not ordered:
        return {"count": 0}
    last = len(ordered) - 1
    return {
        "count": len(ordered),
        "p50_ns": ordered[last // 2],
        "p90_ns": ordered[last * 9 // 10],
        "p99_ns": ordered[last * 99 // 100],
        "max_ns": ordered[last],
    }


def _set_receive_timeout(sock: socket.socket, seconds: float) -> None:
    timeout = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)


def _sleep_until(at_ns: int) -> None:
    wait = at_ns - _now()
    if wait > 0:
        time.sleep(wait / 1e9)


def _spin(duration_ns: int) -> None:
    until = _now() + duration_ns
    while _now() < until:
        pass


def main() -> None:
    """Carry out commands until stdin ends."""
    gc.disable()
    client = Client()
    for line in sys.stdin:
        print(json.dumps(client.do(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
