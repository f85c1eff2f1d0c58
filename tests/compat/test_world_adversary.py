"""What a hostile client may try at the world's door, and that the door then still serves everybody else.

Raw sockets: clients that are libraries would not send most of this (``spec/flux-state.md §0.4, §1, §4``).
"""

from __future__ import annotations

import base64
import json
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import httpx
import pytest

from appliance.testing.hive import HiveHarness

from .world_kit import Feed, event, http, world_hive

pytestmark = pytest.mark.process

WAIT_S = 20.0


@pytest.fixture(scope="module")
def hive() -> Iterator[HiveHarness]:
    with world_hive() as running:
        yield running


@pytest.fixture
def client(hive) -> Iterator[httpx.Client]:
    with http(hive) as opened:
        yield opened
        answer = opened.post("/api/events", json=event("alive", n=1))
        assert answer.status_code == 200, "it serves on"


def dial(hive: HiveHarness) -> socket.socket:
    place = urlsplit(hive.world_url)
    sock = socket.create_connection((place.hostname, place.port), WAIT_S)
    sock.settimeout(WAIT_S)
    return sock


def drained(sock: socket.socket) -> bytes:
    """Everything until the end, which must come."""
    found = b""
    deadline = time.monotonic() + WAIT_S
    with suppress(ConnectionResetError):
        while data := sock.recv(1 << 16):
            found += data
            assert time.monotonic() < deadline, "the door goes on instead of closing"
    return found


def exchanged(hive: HiveHarness, data: bytes) -> tuple[int, bytes]:
    """Send raw bytes, with the promise to say no more; status and all that came (0: cut without a word)."""
    with dial(hive) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError, OSError):
            pass
        found = drained(sock)
    return int(found[9:12] or 0), found


def post(path: str, body: bytes, *more: str, kind: str = "application/json") -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", "Connection: close"]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", *more, "", ""]).encode() + body


def resident_kb(hive: HiveHarness) -> int:
    """Memory of everybody below the hive's keeper."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
                if parent == hive.process.pid:
                    with open(f"/proc/{name}/statm") as file:
                        total += int(file.read().split()[1]) * 4
            except (FileNotFoundError, ProcessLookupError):
                continue
    return total


# --- bodies -------------------------------------------------------------------------------------------------


def raw(payload: str) -> bytes:
    return f'{{"stream":"s","source":"s","payload":{payload}}}'.encode()


@pytest.mark.parametrize(
    ("payload", "statuses"),
    [
        ('{"entity_id":"n/1","properties":{"v":1e400}}', {400}),
        ('{"entity_id":"n/1","properties":{"v":-1e400}}', {400}),
        ('{"entity_id":"n/1","properties":{"v":NaN}}', {400}),
        ('{"entity_id":"n/1","properties":{"v":Infinity}}', {400}),
        ('{"entity_id":"n/1","properties":{"v":"\\ud800"}}', {400}),
        ('{"entity_id":"n/\\ud800","properties":{"v":1}}', {400}),
        ('{"entity_id":"n/1","properties":{"\\udfff":1}}', {400}),
        ('{"entity_id":"n/1","properties":{"v":' + "[" * 50_000 + "]" * 50_000 + "}}", {400}),
        ('{"entity_id":"n/1","properties":{"v":' + '{"a":' * 50_000 + "1" + "}" * 50_000 + "}}", {400}),
        ('{"entity_id":"n/1","properties":{"v":' + "9" * 400 + "}}", {200, 400}),
        ('{"entity_id":"n/1","properties":{"v":' + "9" * 500_000 + "}}", {200, 400}),
        ('{"entity_id":"n/1","properties":{"v":1' + "0" * 100_000 + "e-100000}}", {200, 400}),
        ('{"entity_id":"n/1","entity_id":"n/2","properties":{"v":1}}', {200, 400}),
        ('{"entity_id":"n/1","properties":{"v":1,"v":2}}', {200, 400}),
        ('{"entity_id":"","properties":{"v":1}}', {400}),
        ('{"entity_id":"a\\u0000b","properties":{"v":1}}', {400}),
        ('{"entity_id":"../../etc/passwd","properties":{"v":1}}', {200, 400}),
    ],
)
def test_bodies_that_parsers_disagree_about(client, hive, payload, statuses):
    """What is taken can be read again by every JSON parser, alone, in a listing and in history."""
    for path, body in (
        ("/api/events", raw(payload)),
        ("/api/events/batch", b'{"events":[' + raw(payload) + b"]}"),
    ):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        single = path.endswith("events")
        taken = answer.status_code == 200 and (single or answer.json()["failed"] == 0)
        if single:
            assert answer.status_code in statuses, answer.text[:200]
        elif not taken:
            assert 400 in statuses
    for where in ("/api/state/entities", "/api/events?entity=n/1"):
        read = client.get(where)
        assert read.status_code == 200
        found = json.loads(read.content.decode(), parse_constant=pytest.fail)
        json.dumps(found, ensure_ascii=False).encode()


def test_two_spellings_of_a_letter_are_two_ids(client):
    """Ids are bytes: nothing is normalised on the way in or out."""
    spellings = ["uni/\u00e9", "uni/e\u0301", "uni/\uff41", "uni/a"]
    for number, one in enumerate(spellings):
        assert client.post("/api/events", json=event(one, n=number)).status_code == 200
    for number, one in enumerate(spellings):
        assert client.get(f"/api/state/entities/{one}").json()["properties"] == {"n": number}


@pytest.mark.parametrize(
    "one", ["..", "../x", "a/../b", "a/./b", "%2e%2e/x", "a%2fb", "a//b", "/a", "a/", "?", "#"]
)
def test_ids_that_look_like_paths(client, one):
    """What is stored under an id is read under just that id, encoded once."""
    if client.post("/api/events", json=event(one, me=one)).status_code != 200:
        return
    quoted = "".join(f"%{byte:02X}" for byte in one.encode())
    request = httpx.Request("GET", f"{client.base_url}/api/state/entities/x")
    request.url = request.url.copy_with(raw_path=f"/api/state/entities/{quoted}".encode())
    assert client.send(request).json()["properties"] == {"me": one}
    twice = quoted.replace("%", "%25")
    request.url = request.url.copy_with(raw_path=f"/api/state/entities/{twice}".encode())
    answer = client.send(request)
    assert answer.status_code == 404 or answer.json()["id"] != one


@pytest.mark.parametrize(
    "target",
    [
        "/page/../../etc/passwd",
        "/page/..%2f..%2fetc/passwd",
        "/page/%2e%2e/%2e%2e/etc/passwd",
        "/page/%252e%252e%252fetc/passwd",
        "/page//etc/passwd",
        "/page/\\..\\..\\etc\\passwd",
        "/page/%00",
        "/api/state/entities/%ff%fe",
        "/api/state/entities/%",
        "/api/state/entities/%zz",
        "/api/state/entities?prefix=%ff",
        "/api/events?limit=" + "9" * 5000,
        "/api/events?since=" + "9" * 5000,
        "//evil.example/api/events",
        "http://evil.example/api/events",
        "*",
        "/" + "a" * 15_000,
    ],
)
def test_targets(client, hive, target):
    status, found = exchanged(
        hive, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    assert status in {200, 307, 400, 403, 404, 405, 414, 421, 431}, found[:200]
    assert b"root:" not in found


# --- framing of HTTP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        post("/api/events", b"x", "Transfer-Encoding: chunked"),
        post("/api/events", b"x", "Content-Length: 2"),
        post("/api/events", b"x").replace(b"Content-Length: 1", b"Content-Length: -1"),
        post("/api/events", b"x").replace(b"Content-Length: 1", b"Content-Length: +1"),
        post("/api/events", b"x").replace(b"Content-Length: 1", b"Content-Length: " + b"9" * 40),
        post("/api/events", b"x").replace(b"Content-Length: 1", b"Transfer-Encoding: gzip, chunked"),
        post("/api/events", b"zz\r\nx\r\n0\r\n\r\n").replace(
            b"Content-Length: 14", b"Transfer-Encoding: chunked"
        ),
        post("/api/events", b"-1\r\nx\r\n0\r\n\r\n").replace(
            b"Content-Length: 14", b"Transfer-Encoding: chunked"
        ),
        post("/api/events", b"f" * 30 + b"\r\nx\r\n").replace(
            b"Content-Length: 35", b"Transfer-Encoding: chunked"
        ),
        post("/api/events", b"1;" + b"e" * 100_000 + b"\r\nx\r\n0\r\n\r\n").replace(
            b"Content-Length: 100012", b"Transfer-Encoding: chunked"
        ),
        post("/api/events", b"x").replace(b"Host: localhost", b"Host: localhost\r\nHost: evil"),
        post("/api/events", b"x").replace(b"Host:", b"Host :"),
        post("/api/events", b"x").replace(b"Content-Type:", b" folded\r\nContent-Type:"),
        b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"GET /api/events HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 10_000,
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=range(20),
)
def test_requests_that_are_framed_in_two_ways(client, hive, data):
    status, found = exchanged(hive, data)
    assert status == 0 or 400 <= status < 600, found[:200]
    assert status not in {500, 502}, found[:200]


def test_a_chunked_body_has_the_same_bound(client, hive):
    with dial(hive) as sock:
        head = post("/api/events", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        sock.sendall(head)
        status = b""
        try:
            for _ in range(40):
                sock.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        except OSError:
            pass
        status = drained(sock)[9:12]
    assert status in {b"413", b""}


def test_a_slow_line_of_ndjson_holds_nobody_up(client, hive):
    """A slowloris on the endless body: each costs a connection, no more; whoever comes is served."""
    with ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(dial(hive))
            head = post("/api/events", b"", kind="application/x-ndjson")
            sock.sendall(head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
            sock.sendall(b"1\r\n{\r\n")
        assert client.post("/api/events", json=event("quick", n=1)).status_code == 200


@pytest.mark.slow
def test_half_a_head_is_cut(client, hive):
    with dial(hive) as sock:
        sock.sendall(b"GET /api/events HTTP/1.1\r\nHost: loc")
        began = time.monotonic()
        drained(sock)
        assert time.monotonic() - began < WAIT_S


# --- WebSocket ----------------------------------------------------------------------------------------------

HANDSHAKE = (
    b"GET /api/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(b"k" * 16) + b"\r\nSec-WebSocket-Version: 13\r\n"
)


@contextmanager
def opened(hive: HiveHarness, *more: bytes) -> Iterator[socket.socket]:
    with dial(hive) as sock:
        sock.sendall(HANDSHAKE + b"".join(line + b"\r\n" for line in more) + b"\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            data = sock.recv(1)
            assert data, head
            head += data
        assert b" 101 " in head, head
        yield sock


def frame(opcode: int, body: bytes = b"", *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    first = (0x80 if fin else 0) | rsv | opcode
    size = len(body)
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, mask_bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, size)
    return head + (b"\0\0\0\0" if masked else b"") + body


def close_code(sock: socket.socket) -> int | None:
    """Code of the close frame that comes before the end; frames in between are passed over."""
    data = drained(sock)
    place, code = 0, None
    while place + 2 <= len(data):
        opcode, size = data[place] & 15, data[place + 1] & 127
        place += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[place : place + width])
            place += width
        if opcode == 8 and size >= 2:
            code = int.from_bytes(data[place : place + 2])
        place += size
    return code


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (frame(1, b"{}", masked=False), {1002, None}),
        (frame(1, b"{}", rsv=0x40), {1002, 1007, None}),
        (frame(1, b"{}", rsv=0x20), {1002, None}),
        (frame(3, b"x"), {1002, None}),
        (frame(11, b"x"), {1002, None}),
        (frame(0, b"x"), {1002, None}),
        (frame(1, b"a", fin=False) + frame(1, b"b"), {1002, None}),
        (frame(9, b"x" * 126), {1002, None}),
        (frame(9, b"x", fin=False), {1002, None}),
        (frame(1, b"\xff\xfe"), {1007, None}),
        (frame(1, b"\xe2\x82", fin=False) + frame(0, b""), {1007, None}),
        (frame(8, b"\x03"), {1002, None}),
        (frame(8, struct.pack("!H", 1005)), {1002, None}),
        (frame(8, struct.pack("!H", 1000) + b"\xff"), {1007, 1002, None}),
        (frame(1, b"x" * (1 << 20) + b"y"), {1009, None}),
        (struct.pack("!BBQ", 0x81, 0xFF, 1 << 62) + bytes(2 << 20), {1009, 1002, None}),
        (struct.pack("!BBQ", 0x81, 0xFF, (1 << 64) - 1) + b"\0\0\0\0x", {1009, 1002, None}),
        (frame(1, b"x" * 60_000, fin=False) + frame(0, b"x" * 60_000, fin=False) * 40, {1009, None}),
    ],
    ids=range(18),
)
def test_frames_that_break_the_protocol(client, hive, data, codes):
    """RFC 6455 §5, §7: the door closes, says why where it can, and sends nothing behind that."""
    with opened(hive) as sock:
        with suppress(OSError):
            sock.sendall(data)
        assert close_code(sock) in codes


def test_fragments_with_control_frames_between_them(client, hive):
    text = json.dumps({"type": "subscribe", "entity_id": "frag/1"}).encode()
    with opened(hive) as sock:
        pieces = [text[at : at + 1] for at in range(len(text))]
        data = frame(1, pieces[0], fin=False)
        for piece in pieces[1:-1]:
            data += frame(0, piece, fin=False) + frame(9, b"p")
        sock.sendall(data + frame(0, pieces[-1]))
        time.sleep(0.2)
        client.post("/api/events", json=event("frag/1", n=1))
        client.post("/api/events", json=event("frag/other", n=1))
        found = b""
        while b"frag/1" not in found:
            found += sock.recv(4096)
        assert b"frag/other" not in found
        assert b"\x8a\x01p" in found, "every ping has its pong"


@pytest.mark.slow
def test_a_million_empty_fragments_are_bounded(client, hive):
    with opened(hive) as sock:
        try:
            sock.sendall(frame(1, b"{", fin=False))
            for _ in range(200):
                sock.sendall(frame(0, b"", fin=False) * 5000)
        except OSError:
            return
        assert client.get("/health").status_code == 200


def test_a_flood_of_pings_nobody_reads(client, hive):
    """Pongs are not collected without bound."""
    before = resident_kb(hive)
    with opened(hive) as sock:
        sock.settimeout(3)
        try:
            for _ in range(400):
                sock.sendall(frame(9, b"x" * 125) * 500)
        except OSError:
            pass
        assert client.get("/health").status_code == 200
        assert resident_kb(hive) - before < 64 * 1024


def test_compression_is_not_negotiated(client, hive):
    """A small frame that inflates to a large one has no way in."""
    with dial(hive) as sock:
        sock.sendall(
            HANDSHAKE + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1)
    assert b"101" in head
    assert b"sec-websocket-extensions" not in head.lower()


@pytest.mark.parametrize(
    "message",
    [
        "[" * 100_000,
        '{"type":"publish","id":' + "[" * 5000 + "]" * 5000 + ',"events":[]}',
        '{"type":"publish","id":1,"events":[' + '{"a":' * 3000 + "1" + "}" * 3000 + "]}",
        '{"type":"get","id":1e400,"entity_id":"x"}',
        '{"type":"get","id":"\\ud800","entity_id":"\\ud800"}',
        '{"type":"subscribe","entity_id":"\\ud800"}',
        '{"type":"list","id":1,"limit":-5}',
        '{"type":"list","id":1,"limit":0}',
        '{"type":"list","id":1,"limit":' + "9" * 100 + "}",
        '{"type":"list","id":1,"prefix":"\\ud800"}',
        '{"type":"subscribe","entity_id":"' + "x" * 100_000 + '"}',
        '{"type":"subscribe","type":"get","entity_id":"x"}',
    ],
    ids=range(12),
)
def test_messages_that_mean_nothing_leave_the_socket_open(client, hive, message):
    with Feed(hive) as feed:
        feed.send(message)
        feed.send({"type": "get", "id": "after", "entity_id": "nobody"})
        found = feed.until(lambda frames: any(one.get("id") == "after" for one in frames))
        assert found[-1]["entity"] is None


def test_so_many_subscriptions_are_bounded(client, hive):
    before = resident_kb(hive)
    with Feed(hive) as feed:
        for first in range(0, 30_000, 1000):
            feed.sock.sendall(
                b"".join(
                    frame(1, b'{"type":"subscribe","entity_id":"%s"}' % (b"%d/" % n + b"x" * 400))
                    for n in range(first, first + 1000)
                )
            )
        feed.send({"type": "get", "id": "after", "entity_id": "nobody"})
        feed.until(lambda frames: any(one.get("id") == "after" for one in frames), 30)
        assert resident_kb(hive) - before < 64 * 1024


@pytest.mark.slow
def test_a_thousand_half_open_sockets(client, hive):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with ExitStack() as stack:
            for number in range(1000):
                sock = stack.enter_context(dial(hive))
                sock.sendall(HANDSHAKE + (b"\r\n" if number % 2 else b""))
            assert client.get("/health").status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
