"""An HTTP client for sources: one request, one connection, a deadline, a bound; nothing is followed.

h11 over trio. The host is resolved once and the connection goes to an address that the policy permitted;
redirects come back as they are. What a source answers is at most ``answer_bytes`` long, and everything that
goes wrong on the way is an error of the tree, without any secret in its text.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import h11
import msgspec
import trio

from appliance import __version__
from appliance.wire.errors import FluxbeeError, Unreachable

from .addresses import ReachPolicy, Target, parse_target

__all__ = ["Answer", "FetchStatistics", "Fetcher", "Resolve", "resolve_host"]

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to literal addresses; ``OSError`` when there is none."""

_READ_BYTES: Final = 64 << 10
_HEAD_BYTES: Final = 64 << 10
_CONNECT_S: Final = 10.0
_ADDRESSES: Final = 4
"""So many addresses of a host are tried."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class FetchStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start; ``read_bytes`` of bodies."""

    requests: int = 0
    refused: int = 0
    failed: int = 0
    read_bytes: int = 0


async def resolve_host(host: str, port: int) -> list[str]:
    """The system's resolver, in trio's worker threads."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class Fetcher:
    """Makes requests.

    Args:
        policy: which addresses may be asked.
        timeout_s: for one request, from resolving to the last byte.
        answer_bytes: longest body.
        at_once: most requests under way; others wait.
        resolve: finds addresses.
        make_context: how TLS peers are verified; made when it is first needed (it reads many certificates).
    """

    def __init__(
        self,
        policy: ReachPolicy,
        *,
        timeout_s: float = 30.0,
        answer_bytes: int = 1 << 20,
        at_once: int = 4,
        resolve: Resolve = resolve_host,
        make_context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self.policy = policy
        self._timeout_s = timeout_s
        self._answer_bytes = answer_bytes
        self._limiter = trio.CapacityLimiter(at_once)
        self._resolve = resolve
        self._make_context = make_context
        self._context: ssl.SSLContext | None = None
        self._requests = self._refused = self._failed = self._read_bytes = 0

    def statistics(self) -> FetchStatistics:
        """Counts since the start."""
        return FetchStatistics(
            requests=self._requests, refused=self._refused, failed=self._failed, read_bytes=self._read_bytes
        )

    async def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Send one request and read its whole answer, whatever its status.

        Raises:
            Invalid: ``url`` is no address that can be asked.
            Refused: the policy does not permit it.
            Unreachable: no answer, too late, too long, or not HTTP.
        """
        target = parse_target(url)
        async with self._limiter:
            self._requests += 1
            try:
                with trio.fail_after(self._timeout_s):
                    answer = await self._exchange(target, method, headers or {}, body)
            except trio.TooSlowError:
                self._failed += 1
                raise Unreachable(
                    f"{target.authority} did not answer within {self._timeout_s:g} s", code="TIMEOUT"
                ) from None
            except Unreachable:
                self._failed += 1
                raise
            except FluxbeeError:
                self._refused += 1
                raise
        self._read_bytes += len(answer.body)
        return answer

    async def _exchange(self, target: Target, method: str, headers: Mapping[str, str], body: bytes) -> Answer:
        try:
            found = await self._resolve(target.host, target.port)
        except OSError as error:
            raise Unreachable(f"{target.host} is not known: {error.strerror or error}") from error
        stream = await self._connect(target, self.policy.permitted(target, found)[:_ADDRESSES])
        try:
            return await self._talk(stream, target, method, headers, body)
        except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
            raise Unreachable(f"{target.authority} does not answer: {_words(error)}") from error
        except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
            raise Unreachable(f"what {target.authority} answers is not HTTP: {error}") from error
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def _connect(self, target: Target, addresses: list[str]) -> trio.abc.Stream:
        last: Exception | None = None
        for address in addresses:
            try:
                with trio.fail_after(_CONNECT_S):
                    line = await _dial(address, target.port)
                break
            except (OSError, trio.TooSlowError) as error:
                last = error
        else:
            raise Unreachable(f"{target.authority} cannot be reached: {_words(last)}") from last
        stream: trio.abc.Stream = line
        try:
            self.policy.check_peer(target, address, line.socket.getsockname()[0])
        except FluxbeeError:
            await trio.aclose_forcefully(stream)
            raise
        if target.secure:
            if self._context is None:
                self._context = await trio.to_thread.run_sync(self._make_context)
            return trio.SSLStream(stream, self._context, server_hostname=target.host, https_compatible=True)
        return stream

    async def _talk(
        self, stream: trio.abc.Stream, target: Target, method: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
        own = {
            "Host": target.authority,
            "User-Agent": f"fluxbee-edge/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        if body:
            own["Content-Length"] = str(len(body))
        request = h11.Request(method=method, target=target.path, headers=list({**own, **headers}.items()))
        out = wire.send(request) or b""
        if body:
            out += wire.send(h11.Data(data=body)) or b""
        await stream.send_all(out + (wire.send(h11.EndOfMessage()) or b""))
        return await self._read(stream, wire, target)

    async def _read(self, stream: trio.abc.Stream, wire: h11.Connection, target: Target) -> Answer:
        status, headers = 0, dict[str, str]()
        body = bytearray()
        while True:
            event = wire.next_event()
            if event is h11.NEED_DATA:
                wire.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                if headers.get("content-encoding", "identity") != "identity":
                    raise Unreachable(f"{target.authority} answers in an encoding that was not asked for")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > self._answer_bytes:
                    raise Unreachable(
                        f"{target.authority} answers with more than {self._answer_bytes} bytes",
                        code="ANSWER_TOO_LARGE",
                    )
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, headers, bytes(body))
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                raise Unreachable(f"{target.authority} ended its answer too early")


async def _dial(address: str, port: int) -> trio.SocketStream:
    family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def _words(error: Exception | None) -> str:
    if isinstance(error, trio.BrokenResourceError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, trio.TooSlowError):
        return "no connection in time"
    return str(error) or type(error).__name__
