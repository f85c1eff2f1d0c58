"""The least that can be called a router: takes HELLO, then moves each frame to the node that ``dst`` names.

No policy, no VPN, no JSON: it looks for ``"dst":"`` and, in a broadcast, for a ``"target":"prefix*"`` in
the bytes. It is what the benchmarks are developed and tested against, and a bound of what a loop of this
kind can reach in Python. Frames are delivered unchanged; a queue over its bound drops.

``python -S -m tests.bench.clients.pump SOCKET``
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections import deque
from pathlib import Path

from .frames import frame

__all__ = ["Pump", "main"]

_QUEUE_BYTES = 64 << 20
_UUID = "00000000-0000-4000-8000-000000000000"
_DST = b'"dst":"'
_TARGET = b'"target":"'


class _Peer:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.held = b""
        self.name = b""
        self.out: deque[bytes] = deque()
        self.out_bytes = 0
        self.writing = False


class Pump:
    """Serves one listening socket until its input descriptor ends."""

    def __init__(self, listener: socket.socket, hive: str = "bench") -> None:
        self.listener = listener
        self.hive = hive
        self.peers: dict[int, _Peer] = {}
        self.by_name: dict[bytes, _Peer] = {}
        self.poll = select.epoll()
        self.poll.register(listener.fileno(), select.EPOLLIN)
        self.dropped = 0
        self._touched: set[_Peer] = set()

    def run(self, stop_fd: int) -> None:
        """Serve until ``stop_fd`` becomes readable."""
        self.poll.register(stop_fd, select.EPOLLIN)
        with self.poll:
            while True:
                for fd, events in self.poll.poll():
                    if fd == stop_fd:
                        return
                    if fd == self.listener.fileno():
                        self._accept()
                    elif (peer := self.peers.get(fd)) is not None:
                        if events & select.EPOLLOUT:
                            self._touched.add(peer)
                        if events & ~select.EPOLLOUT:
                            self._read(peer)
                touched, self._touched = self._touched, set()
                for peer in touched:
                    self._write(peer)

    def _accept(self) -> None:
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        self.peers[sock.fileno()] = _Peer(sock)
        self.poll.register(sock.fileno(), select.EPOLLIN)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.sock.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._leave(peer)
            return
        if peer.held:
            data = peer.held + data
        at, end = 0, len(data)
        while end - at >= 4:
            stop = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if stop > end:
                break
            self._take(peer, data[at:stop])
            at = stop
        peer.held = data[at:]

    def _take(self, peer: _Peer, whole: bytes) -> None:
        if not peer.name:
            self._greet(peer, whole)
            return
        at = whole.find(_DST) + len(_DST)
        target = self.by_name.get(whole[at : whole.index(b'"', at)])
        if target is not None:
            self._queue(target, whole)
        elif whole.startswith(b"broadcast", at):
            aim = whole.find(_TARGET)
            prefix = whole[aim + len(_TARGET) : whole.index(b"*", aim)] if aim > 0 else b""
            for other in self.peers.values():
                if other is not peer and other.name.startswith(prefix):
                    self._queue(other, whole)

    def _queue(self, target: _Peer, data: bytes) -> None:
        if target.out_bytes > _QUEUE_BYTES:
            self.dropped += 1
            return
        target.out.append(data)
        target.out_bytes += len(data)
        self._touched.add(target)

    def _write(self, peer: _Peer) -> None:
        while peer.out:
            data = b"".join(peer.out) if len(peer.out) > 1 else peer.out[0]
            peer.out.clear()
            try:
                sent = peer.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._leave(peer)
                return
            peer.out_bytes -= sent
            if sent < len(data):
                peer.out.append(data[sent:])
                self._watch(peer, writing=True)
                return
        self._watch(peer, writing=False)

    def _watch(self, peer: _Peer, *, writing: bool) -> None:
        if peer.writing != writing:
            peer.writing = writing
            self.poll.modify(peer.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def _greet(self, peer: _Peer, whole: bytes) -> None:
        message = json.loads(whole[4:])
        payload = message["payload"]
        name = payload["name"] if "@" in payload["name"] else f"{payload['name']}@{self.hive}"
        peer.name = name.encode()
        self.by_name[peer.name] = self.by_name[payload["uuid"].encode()] = peer
        routing = message["routing"]
        announce = {
            "routing": {"src": _UUID, "dst": routing["src"], "ttl": 1, "trace_id": routing["trace_id"]},
            "meta": {"type": "system", "msg": "ANNOUNCE"},
            "payload": {
                "uuid": payload["uuid"],
                "name": name,
                "status": "registered",
                "vpn_id": 0,
                "router_name": f"RT.pump@{self.hive}",
            },
        }
        self._queue(peer, frame(json.dumps(announce).encode()))

    def _leave(self, peer: _Peer) -> None:
        fd = peer.sock.fileno()
        if self.peers.pop(fd, None) is None:
            return
        self.poll.unregister(fd)
        peer.sock.close()
        for key in [key for key, held in self.by_name.items() if held is peer]:
            del self.by_name[key]


def main() -> None:
    """Listen on the path given as argument; ends with stdin."""
    path = Path(sys.argv[1])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(128)
        print(json.dumps({"socket": str(path)}), flush=True)
        Pump(listener).run(sys.stdin.fileno())


if __name__ == "__main__":
    main()
