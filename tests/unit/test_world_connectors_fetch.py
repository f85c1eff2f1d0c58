"""The client: real sockets, and everything that a server can do wrong."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import IPv4Address

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.wire.errors import Invalid, Refused, Unreachable
from appliance.world.connectors.addresses import ReachPolicy
from appliance.world.connectors.fetch import Fetcher, resolve_host
from tests.fake_web import Web, serving

OPEN = ReachPolicy("network", ["127.0.0.0/8"])


@pytest.fixture
def web():
    with serving() as web:
        yield web


def fetched(url: str, fetcher: Fetcher | None = None, **request):
    return trio.run(partial((fetcher or Fetcher(OPEN, timeout_s=5)).fetch, url, **request))


def answering(*pieces: bytes, **given) -> tuple[Exception | object, bytes]:
    """What a fetch makes of raw bytes; also what it sent."""
    got = bytearray()

    async def handler(stream: trio.SocketStream) -> None:
        async with stream:
            while b"\r\n\r\n" not in got:
                got.extend(await stream.receive_some(4096))
            for piece in pieces:
                await stream.send_all(piece)

    async def main():
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            port = listener.socket.getsockname()[1]
            try:
                return await Fetcher(OPEN, **{"timeout_s": 5, **given}).fetch(f"http://127.0.0.1:{port}/x?y")
            except Unreachable as error:
                return error
            finally:
                nursery.cancel_scope.cancel()

    return trio.run(main), bytes(got)


def test_a_request_and_its_answer(web: Web):
    web.on("/x", {"a": 1}, ETag='"1"')
    answer = fetched(f"{web.base}/x?q=1", headers={"Authorization": "Bearer t"})
    assert (answer.status, answer.body, answer.headers["etag"]) == (200, b'{"a": 1}', '"1"')
    asked = web.asked[0]
    assert (asked.method, asked.query) == ("GET", {"q": "1"})
    assert asked.headers["host"] == web.base.removeprefix("http://")
    assert asked.headers["authorization"] == "Bearer t"
    assert asked.headers["accept-encoding"] == "identity"


def test_a_body(web: Web):
    web.on("/t", lambda asked: (200, {}, asked.form))
    assert fetched(f"{web.base}/t", method="POST", body=b"a=1&b=2").body == b'{"a": "1", "b": "2"}'


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest/meta-data/", "/other", "file:///etc/passwd"]
)
def test_redirects_are_answers_and_are_not_followed(web: Web, status, location):
    web.on("/x", b"", status, Location=location)
    assert fetched(f"{web.base}/x").status == status
    assert len(web.asked) == 1


def test_this_box_is_refused_before_anything_is_sent(web: Web):
    fetcher = Fetcher(ReachPolicy(), timeout_s=5)
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(Refused):
            fetched(f"http://{host}:{web.port}/x", fetcher)
    assert not web.asked
    assert fetcher.statistics().refused == 4


def test_a_name_that_resolves_to_this_box_is_refused(web: Web):
    async def rebound(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "169.254.169.254", "::ffff:7f00:1"]

    with pytest.raises(Refused):
        fetched(f"http://innocent.example:{web.port}/x", Fetcher(ReachPolicy(), resolve=rebound))
    assert not web.asked


def test_a_name_is_resolved_once_and_the_judged_address_is_asked(web: Web):
    asked = []

    async def changing(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    web.on("/x", {})
    answer = fetched(f"http://a.example:{web.port}/x", Fetcher(OPEN, resolve=changing))
    assert (answer.status, asked) == (200, ["a.example"])
    assert web.asked[0].headers["host"] == f"a.example:{web.port}"


def test_this_box_under_its_address_in_the_network_is_refused_unsaid(web: Web):
    class Lenient(ReachPolicy):
        def permitted(self, target, addresses):
            return list(addresses)  # as for an address that nothing tells from a neighbour's

    with pytest.raises(Refused):
        fetched(f"{web.base}/x", Fetcher(Lenient(), timeout_s=5))
    assert not web.asked


def test_a_good_address_behind_a_bad_one(web: Web):
    async def several(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "fe80::1", "127.0.0.1"]

    web.on("/x", {})
    assert fetched(f"http://a.example:{web.port}/x", Fetcher(OPEN, resolve=several)).status == 200


def test_the_systems_resolver():
    async def main():
        assert "127.0.0.1" in await resolve_host("localhost", 80)

    trio.run(main)


def test_a_name_that_nobody_knows():
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    with pytest.raises(Unreachable, match="not known"):
        fetched("http://nowhere.example/", Fetcher(OPEN, resolve=unknown))


def test_nobody_listens(web: Web):
    fetcher = Fetcher(OPEN)
    with pytest.raises(Unreachable, match="cannot be reached"):
        fetched("http://127.0.0.1:1/", fetcher)
    assert fetcher.statistics().failed == 1


def test_what_cannot_be_asked_is_no_request():
    fetcher = Fetcher(OPEN)
    with pytest.raises(Invalid):
        fetched("gopher://127.0.0.1/", fetcher)
    assert fetcher.statistics().requests == 0


HEAD = b"HTTP/1.1 200 OK\r\n"


def test_a_long_answer_is_cut():
    error, _ = answering(HEAD + b"Content-Length: 3000\r\n\r\n" + b"x" * 3000, answer_bytes=1000)
    assert isinstance(error, Unreachable)
    assert error.code == "ANSWER_TOO_LARGE"
    error, _ = answering(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"400\r\n" + b"x" * 1024, answer_bytes=1000
    )
    assert error.code == "ANSWER_TOO_LARGE"


def test_an_answer_without_a_length_ends_with_its_connection():
    answer, sent = answering(HEAD + b"\r\n", b"{}")
    assert answer.body == b"{}"
    assert sent.startswith(b"GET /x?y HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "pieces",
    [
        (b"SSH-2.0-x\r\n\r\n",),
        (b"",),
        (HEAD + b"Content-Length: 10\r\n\r\n", b"short"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n", b"{}"),
        (HEAD + b"X: " + b"y" * 100_000,),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",),
    ],
)
def test_what_is_no_answer(pieces):
    error, _ = answering(*pieces)
    assert isinstance(error, Unreachable)


def test_silence_ends_at_the_deadline():
    async def quiet(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def main():
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, quiet, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            with pytest.raises(Unreachable) as caught:
                await Fetcher(OPEN, timeout_s=0.05).fetch(f"http://127.0.0.1:{port}/")
            assert caught.value.code == "TIMEOUT"
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_only_so_many_at_once():
    under_way = most = 0

    async def slow(host: str, port: int) -> list[str]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        under_way -= 1
        return []

    fetcher = Fetcher(OPEN, at_once=2, resolve=slow)

    async def one() -> None:
        with pytest.raises(Refused):
            await fetcher.fetch("http://a.example/")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)

    trio.run(main)
    assert most == 2


def certificate(name: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(IPv4Address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return built.public_bytes(serialization.Encoding.PEM), private


@pytest.mark.parametrize(
    ("host", "trusted", "good"),
    [("meter.example", True, True), ("meter.example", False, False), ("other.example", True, False)],
)
def test_tls_peers_are_verified_by_the_name_that_was_asked(tmp_path, host, trusted, good):
    public, private = certificate("meter.example")
    (tmp_path / "c.pem").write_bytes(public + private)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "c.pem")

    async def handler(stream: trio.abc.Stream) -> None:
        try:
            async with stream:
                await stream.receive_some(4096)
                await stream.send_all(HEAD + b"Content-Length: 2\r\n\r\n{}")
        except trio.BrokenResourceError:
            pass  # the client did not like the certificate

    def context() -> ssl.SSLContext:
        return ssl.create_default_context(cadata=public.decode()) if trusted else ssl.create_default_context()

    async def here(name: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            serve: Callable[..., Awaitable[object]] = partial(
                trio.serve_ssl_over_tcp, handler, 0, server, host="127.0.0.1"
            )
            (listener,) = await nursery.start(serve)
            port = listener.transport_listener.socket.getsockname()[1]
            fetcher = Fetcher(OPEN, timeout_s=5, resolve=here, make_context=context)
            if good:
                assert (await fetcher.fetch(f"https://{host}:{port}/")).body == b"{}"
            else:
                with pytest.raises(Unreachable, match="certificate"):
                    await fetcher.fetch(f"https://{host}:{port}/")
            nursery.cancel_scope.cancel()

    trio.run(main)
