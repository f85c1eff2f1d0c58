"""One HTTP POST over trio and h11, with TLS.

A connection per call: a model answers in seconds, so that a handshake does not count, and nothing stale is
ever reused. The body is bounded, redirects are not followed (a key must not wander), and every failure is an
error of the tree that says whether another try may help.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import h11
import msgspec
import trio

from appliance.wire.errors import Unavailable, Unreachable

__all__ = ["MAX_BODY_BYTES", "Response", "post"]

MAX_BODY_BYTES = 8 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0
_REMEDY = "Check base_url, and that this box reaches it."
_CHUNK_BYTES = 65536
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Where distributions keep their certificates; a frozen program's OpenSSL may look elsewhere."""


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What came back; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


async def post(
    host: str,
    port: int,
    path: str,
    body: bytes,
    *,
    headers: dict[str, str],
    is_secure: bool,
    timeout_s: float,
    ca_file: str | None = None,
) -> Response:
    """POST ``body`` and return the whole response.

    Raises:
        Unreachable: no connection, or it ended too early; ``code`` says which.
        Unavailable: what came back is no HTTP, or too large.
    """
    where = f"{host}:{port}"
    try:
        with trio.fail_after(timeout_s):
            stream = await _connect(host, port, is_secure=is_secure, ca_file=ca_file)
            try:
                return await _exchange(stream, host if port in (80, 443) else where, path, body, headers)
            finally:
                await trio.aclose_forcefully(stream)
    except trio.TooSlowError as error:
        raise Unreachable(
            f"{where} did not answer within {timeout_s:g} s", code="MODEL_TIMEOUT", remedy=_REMEDY
        ) from error
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise Unreachable(
            f"{where} cannot be reached: {_reason(error)}", code="MODEL_UNREACHABLE", remedy=_REMEDY
        ) from error
    except h11.RemoteProtocolError as error:
        raise Unavailable(
            f"{where} does not speak HTTP: {error}", code="MODEL_GARBAGE", remedy=_REMEDY
        ) from error


async def _connect(host: str, port: int, *, is_secure: bool, ca_file: str | None) -> trio.abc.Stream:
    with trio.fail_after(CONNECT_TIMEOUT_S):
        stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
        if is_secure:
            context = await trio.to_thread.run_sync(_tls, ca_file)
            secure = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
            try:
                await secure.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            stream = secure
    return stream


def _tls(ca_file: str | None) -> ssl.SSLContext:
    if ca_file:
        return ssl.create_default_context(cafile=ca_file)
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:
        for bundle in _BUNDLES:
            if Path(bundle).is_file():
                context.load_verify_locations(bundle)
                break
    return context


async def _exchange(
    stream: trio.abc.Stream, host: str, path: str, body: bytes, headers: dict[str, str]
) -> Response:
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method="POST",
        target=path,
        headers=[
            ("Host", host),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Accept", "application/json"),
            ("Connection", "close"),
            *headers.items(),
        ],
    )
    head = connection.send(request) or b""
    await stream.send_all(head + (connection.send(h11.Data(data=body)) or b""))
    connection.send(h11.EndOfMessage())
    answer: h11.Response | None = None
    received = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_CHUNK_BYTES)))
        elif isinstance(event, h11.Response):
            answer = event
        elif isinstance(event, h11.Data):
            received += event.data
            if len(received) > MAX_BODY_BYTES:
                raise Unavailable("the model's answer is too large", code="MODEL_GARBAGE", remedy=_REMEDY)
        elif isinstance(event, h11.EndOfMessage):
            break
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the connection ended before the answer was whole")
    assert answer is not None
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
    return Response(status=answer.status_code, headers=named, body=bytes(received))


def _reason(error: BaseException) -> str:
    """The deepest cause: trio wraps what the system said."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return _reason(error.exceptions[0])
    return str(error) or type(error).__name__
