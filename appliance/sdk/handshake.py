"""HELLO and ANNOUNCE: what happens on a connection before the first message (``spec/node-protocol.md §1.4``).

The very next frame after HELLO must be the ANNOUNCE. A router refuses by closing, without a word: its log has
the reason. What follows the ANNOUNCE in the same read is handed on and not lost.
"""

from __future__ import annotations

import socket

import anyio
import msgspec

from appliance.wire import verbs
from appliance.wire.envelope import decode_message, encode_message, hello, raw_json
from appliance.wire.errors import FluxbeeError, Invalid, Refused, Unreachable
from appliance.wire.frames import FrameSplitter, pack_frame

from .config import NodeConfig, router_candidates
from .transport import READ_BYTES, SocketTransport, Transport, open_unix

__all__ = ["Announce", "Session", "open_session"]


class Announce(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of ANNOUNCE. ``status`` is not interpreted; ``name`` is the full L2 name."""

    uuid: str
    name: str
    status: str
    vpn_id: int
    router_name: str


class Session(msgspec.Struct, frozen=True):
    """One connection after its handshake; ``bodies`` are frames that came along with the ANNOUNCE."""

    transport: Transport
    announce: Announce
    splitter: FrameSplitter
    bodies: list[bytes]


async def open_session(config: NodeConfig, uuid: str) -> Session:
    """Connect and shake hands, within ``config.handshake_timeout_s``.

    Raises:
        Unreachable: no router (``NO_ROUTER``), it does not answer (``HANDSHAKE_TIMEOUT``), or what answers is
            not a router (``HANDSHAKE_FAILED``).
        Refused: the router closed the connection instead of announcing (``HANDSHAKE_REFUSED``).
    """
    transport: Transport | None = None
    try:
        with anyio.fail_after(config.handshake_timeout_s):
            transport = await _open_transport(config)
            return await _shake_hands(transport, config, uuid)
    except BaseException as error:
        if transport is not None:
            transport.close()
        if isinstance(error, TimeoutError):
            raise Unreachable(
                f"the router did not answer {config.name} within {config.handshake_timeout_s:g} s",
                code="HANDSHAKE_TIMEOUT",
                remedy="Check with `fluxbee status` whether the router is running and not overloaded.",
            ) from error
        if isinstance(error, OSError):
            raise _closed(config, str(error)) from error
        raise


async def _open_transport(config: NodeConfig) -> Transport:
    if config.dial is not None:
        try:
            return _as_transport(await config.dial())
        except (OSError, FluxbeeError) as error:
            raise Unreachable(
                f"{config.name}: no connection to the router: {error}", code="NO_ROUTER"
            ) from error
    path = config.router_socket or config.paths.routers
    failure: OSError | None = None
    try:
        candidates = await anyio.to_thread.run_sync(router_candidates, path, config.name)
    except OSError as error:
        candidates, failure = [], error
    for candidate in candidates:
        try:
            return await open_unix(candidate)
        except OSError as error:
            failure = error
    raise Unreachable(
        f"no router listens at {path}: {failure}",
        code="NO_ROUTER",
        remedy="Start the router with `fluxbee run`, or check the path and your membership of group fluxbee.",
    ) from failure


def _as_transport(opened: socket.socket | Transport) -> Transport:
    return SocketTransport(opened) if isinstance(opened, socket.socket) else opened


def _closed(config: NodeConfig, why: str) -> Refused:
    return Refused(
        f"the router closed the connection of {config.name} instead of announcing it ({why})",
        code="HANDSHAKE_REFUSED",
        remedy="The router's log has the reason: a reserved or malformed name, or too many nodes.",
    )


def _failed(why: str) -> Unreachable:
    return Unreachable(
        f"expected ANNOUNCE: {why}",
        code="HANDSHAKE_FAILED",
        remedy="Check that the socket belongs to a Fluxbee router.",
    )


async def _shake_hands(transport: Transport, config: NodeConfig, uuid: str) -> Session:
    greeting = hello(uuid, config.name, config.version)
    if config.launch_token is not None:
        known = {"uuid": uuid, "name": config.name, "version": config.version}
        greeting.payload = raw_json({**known, "launch_token": config.launch_token})
    rest = memoryview(pack_frame(encode_message(greeting)))
    while rest:
        rest = rest[await transport.send_some(rest) :]
    splitter = FrameSplitter()
    while True:
        data = await transport.receive(READ_BYTES)
        if not data:
            raise _closed(config, "end of stream")
        try:
            bodies = splitter.feed(data)
        except Invalid as error:
            raise _failed(str(error)) from error
        if bodies:
            return Session(transport, _read_announce(bodies[0]), splitter, bodies[1:])


def _read_announce(body: bytes) -> Announce:
    try:
        message = decode_message(body)
        if message.meta.type != verbs.SYSTEM or message.meta.msg != verbs.ANNOUNCE:
            raise _failed(f"the first frame is {message.meta.type} {message.meta.msg or ''}".rstrip())
        return message.payload_as(Announce)
    except Invalid as error:
        raise _failed(str(error)) from error
