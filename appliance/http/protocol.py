"""hypercorn's sans-IO HTTP/1.1, changed where a door needs it otherwise.

Errors below the application have JSON bodies, there is no way into HTTP/2, WebSocket compression is declined,
and a small answer leaves in one piece. Reading, writing and deadlines are the connection's.
"""

from __future__ import annotations

from collections.abc import Callable

import h11
from hypercorn.events import RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import H11Protocol

from appliance.http.counters import Counters
from appliance.http.errors import Fault

__all__ = ["FaultResponse", "Protocol"]

_Sendable = h11.Data | h11.EndOfMessage | h11.InformationalResponse | h11.Response

FaultResponse = Callable[[Fault], tuple[list[tuple[bytes, bytes]], bytes]]
"""Headers and body that report a fault (``Gate.fault_response``)."""


class Protocol(H11Protocol):
    """HTTP/1.1 with JSON bodies for what is wrong below the application, and no way into HTTP/2."""

    fault_response: FaultResponse
    counters: Counters
    _head = b""

    async def stream_send(self, event: StreamEvent) -> None:
        """What a request's stream has to send; a head whose body never came goes before the end."""
        if self._head and isinstance(event, StreamClosed):
            head, self._head = self._head, b""
            await self.send(RawData(data=head))
        await super().stream_send(event)

    async def _send_h11_event(self, event: _Sendable) -> None:
        """Send an event's bytes; a head that announces a length waits for the first of its body.

        Such a body is at hand, so a small answer is one system call and one packet; two of them were a tenth
        of a small request. An event without bytes (the end of a body) sends nothing.
        """
        try:
            data = self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response) and any(name == b"content-length" for name, _ in event.headers):
            self._head = data
            return
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            await self.send(RawData(data=data))

    async def _check_protocol(self, event: h11.Request) -> None:
        """An ``Upgrade: h2c`` is ignored, which RFC 9110 §7.8 allows; the request is answered in HTTP/1.1."""

    async def _create_stream(self, request: h11.Request) -> None:
        """Start the request; WebSocket compression is declined.

        Browsers and libraries offer it always, and it would cost a small box zlib for every frame, and memory
        for whoever sends 64 KiB that unpack to 64 MiB.
        """
        kept = [(name, value) for name, value in request.headers if name != b"sec-websocket-extensions"]
        if len(kept) != len(request.headers):
            request = h11.Request(
                method=request.method, target=request.target, headers=kept, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        self.counters.protocol_errors += 1
        self.counters.responses[status_code // 100] += 1
        message = "the request head is too long" if status_code == 431 else "this is not valid HTTP/1.1"
        fault = Fault(
            status=status_code, code="INVALID_REQUEST", message=message, remedy="Correct the client."
        )
        headers, body = self.fault_response(fault)
        headers.append((b"connection", b"close"))
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
