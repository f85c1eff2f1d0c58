"""A node without any SDK: a Unix socket, four bytes of length, JSON (`spec/node-protocol.md §1`).

python tests/compat/plain_client.py SOCKET_OR_DIR DST TEXT      send TEXT, print the reply and its latency
python tests/compat/plain_client.py SOCKET_OR_DIR --echo NAME   be the node NAME and echo until Ctrl-C
"""

import contextlib
import json
import socket
import struct
import sys
import time
import uuid
from pathlib import Path


def write(sock, message):
    body = json.dumps(message).encode()
    sock.sendall(struct.pack(">I", len(body)) + body)


def read(stream):
    header = stream.read(4)
    return json.loads(stream.read(*struct.unpack(">I", header))) if header else None


def message(src, dst, meta, payload, ttl=16, trace_id=None):
    routing = {"src": src, "dst": dst, "ttl": ttl, "trace_id": trace_id or str(uuid.uuid4())}
    return {"routing": routing, "meta": meta, "payload": payload}


def join(where, name):
    """Connect to a router socket, or to the first one in a directory, and introduce ourselves as `name`."""
    path = sorted(Path(where).glob("[!i]*.sock"))[0] if Path(where).is_dir() else where
    sock, me = socket.socket(socket.AF_UNIX), str(uuid.uuid4())
    sock.connect(str(path))
    hello = {"uuid": me, "name": name, "version": "1.0"}
    write(sock, message(me, None, {"type": "system", "msg": "HELLO"}, hello, ttl=1))
    stream = sock.makefile("rb")
    return sock, stream, me, read(stream)["payload"]["name"]  # the ANNOUNCE says what we are called


def send(where, dst, text):
    sock, stream, me, _ = join(where, f"IO.plain.{uuid.uuid4().hex[:8]}")
    question = message(me, dst, {"type": "user"}, {"type": "text", "content": text, "attachments": []})
    began = time.perf_counter()
    write(sock, question)
    while (answer := read(stream)) and answer["routing"]["trace_id"] != question["routing"]["trace_id"]:
        pass  # somebody else wrote to us
    print(f"{(time.perf_counter() - began) * 1000:.2f} ms", json.dumps(answer["payload"], ensure_ascii=False))


def echo(where, name):
    sock, stream, me, full_name = join(where, name)
    print(f"{full_name} echoes", flush=True)
    while got := read(stream):
        if got["meta"]["type"] != "system":
            back = got["routing"]
            write(sock, message(me, back["src"], got["meta"], got["payload"], trace_id=back["trace_id"]))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    place, first, second = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        echo(place, second) if first == "--echo" else send(place, first, second)
