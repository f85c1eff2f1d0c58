"""One request to the world door and one answer, without more machinery than they need.

Reads what handlers ask of a request (query, body, id in the path) under the rules of ``spec/flux-state.md``
HT-04 to HT-08, and writes compact JSON (HT-02). Limits, deadlines and unexpected errors are the gate's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from appliance.http.errors import Fault
from appliance.http.guard import header
from appliance.wire.errors import FluxbeeError, Invalid

__all__ = [
    "JSON",
    "Call",
    "Reply",
    "UnsupportedMedia",
    "WrongShape",
    "error_body",
    "json_reply",
    "world_error",
]

JSON: Final = (b"content-type", b"application/json")
T = TypeVar("T")


class UnsupportedMedia(Invalid):
    """The body is announced as something else than JSON (HT-04)."""

    code, status = "UNSUPPORTED_MEDIA_TYPE", 415


class WrongShape(Invalid):
    """The body is JSON of the wrong shape (HT-04)."""

    status = 422


class Reply(msgspec.Struct, frozen=True):
    """A whole answer; ``headers`` without the length."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = (JSON,)

    async def send_to(self, send: Send) -> None:
        """Send it."""
        headers = [*self.headers, (b"content-length", str(len(self.body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_reply(value: object, *, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Reply:
    """``value`` as compact JSON."""
    return Reply(msgspec.json.encode(value), status, (JSON, *headers))


def error_body(message: str) -> bytes:
    """The one shape of errors (HT-01)."""
    return msgspec.json.encode({"error": message})


def world_error(fault: Fault) -> dict[str, object]:
    """``DoorConfig.error_shape`` of this door: one key, as its clients know it (HT-01)."""
    return {"error": fault.message}


class Call:
    """One HTTP request.

    Attributes:
        method: upper case; ``HEAD`` arrives as ``GET`` (the body is dropped below).
        address: the client's, as text; empty where there is none.
    """

    __slots__ = ("method", "receive", "scope", "send")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = "GET" if scope["method"] == "HEAD" else scope["method"]

    @property
    def address(self) -> str:
        """Where the request comes from."""
        client = self.scope.get("client")
        return client[0] if client else ""

    def header(self, name: bytes) -> str | None:
        """A header as Latin-1 text; ``name`` in lower case."""
        return header(self.scope, name)

    def query(self, known: Collection[str]) -> dict[str, str]:
        """The parameters called ``known``; others are ignored (HT-06).

        Raises:
            Invalid: one comes twice, or is not UTF-8.
        """
        text: bytes = self.scope["query_string"]
        if not text:
            return {}
        found: dict[str, str] = {}
        try:
            pairs = parse_qsl(
                text.decode("latin-1"), keep_blank_values=True, errors="strict", max_num_fields=64
            )
        except ValueError as error:
            raise Invalid(f"Failed to deserialize query string: {error}") from error
        for name, value in pairs:
            if name not in known:
                continue
            if name in found:
                raise Invalid(f"Failed to deserialize query string: duplicate field `{name}`", field=name)
            found[name] = value
        return found

    def number(self, query: Mapping[str, str], name: str) -> int | None:
        """An unsigned parameter, ``None`` without one.

        Raises:
            Invalid: it is not a number.
        """
        text = query.get(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise Invalid(
                f"Failed to deserialize query string: {name}: invalid digit found in string", field=name
            )
        return int(text)

    def tail(self, prefix: bytes) -> str:
        """What follows ``prefix`` in the path, percent-decoded once (HT-07).

        Raises:
            Invalid: it is not UTF-8.
        """
        try:
            return unquote_to_bytes(self.scope["raw_path"][len(prefix) :]).decode()
        except UnicodeDecodeError:
            raise Invalid("Invalid URL: the path is not valid UTF-8") from None

    async def body(self) -> bytes:
        """The whole body; its limit is the gate's.

        Raises:
            ClientDisconnect: the client left.
        """
        parts: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if part := message.get("body", b""):
                parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def json(self, decoder: msgspec.json.Decoder[T]) -> T:
        """The body of an endpoint that wants JSON (HT-04).

        Raises:
            UnsupportedMedia, Invalid, WrongShape: 415, 400, 422.
        """
        kind = (self.header(b"content-type") or "").split(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise UnsupportedMedia("Expected request with `Content-Type: application/json`")
        body = await self.body()
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise WrongShape(f"Failed to deserialize the JSON body into the target type: {error}") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise Invalid(f"Failed to parse the request body as JSON: {error}") from error

    def fails(self, error: FluxbeeError) -> Reply:
        """``error`` as an answer."""
        fault = Fault.from_error(error)
        return Reply(error_body(fault.message), fault.status, (JSON, *fault.headers()))
