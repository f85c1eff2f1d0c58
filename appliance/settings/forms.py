"""The forms that a text in ``hive.yaml`` can be required to fit, each with the words that explain it.

Pure functions over text; nothing here opens, resolves or connects. A form with a ``pattern`` carries it into
the JSON Schema, so that an editor complains before the appliance does.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from appliance.wire.errors import Invalid
from appliance.wire.names import MAX_NAME_BYTES, check_hive_id, check_local_name

__all__ = ["FORMS", "Form", "is_loopback", "split_address"]


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """One form: ``expects`` completes "expected …", ``fits`` decides, ``pattern`` is for editors."""

    expects: str
    fits: Callable[[str], bool]
    pattern: str | None = None


_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})\Z")


def split_address(text: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` as (host, port).

    Raises:
        ValueError: it is neither, or the port is above 65535.
    """
    match = _ADDRESS.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not host:port")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"port {port} is above 65535")
    if match["v6"] is not None:
        return str(ipaddress.IPv6Address(match["v6"])), port
    return match["host"], port


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a literal address or ``localhost``) can only be reached from this box."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(lowest_port: int) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            return split_address(text)[1] >= lowest_port
        except ValueError:
            return False

    return fits


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def _url(*schemes: str) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            parts = urlsplit(text)
            return parts.scheme in schemes and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            return False

    return fits


def _node_name(*kinds: str) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            check_local_name(text)
        except Invalid:
            return False
        return not kinds or text.startswith(kinds)

    return fits


def _hive_id(text: str) -> bool:
    try:
        check_hive_id(text)
    except Invalid:
        return False
    return True


def _node_pattern(text: str) -> bool:
    return 0 < len(text.encode()) <= MAX_NAME_BYTES and not any(c.isspace() for c in text)


def _key_32_bytes(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


def _host_or_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?", text) is not None
    return True


def _text(expects: str, pattern: str) -> Form:
    return Form(expects=expects, fits=_matches(pattern), pattern=f"^(?:{pattern})$")


_HOST_PORT = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"

FORMS: dict[str, Form] = {
    "address": Form(
        expects="host:port, for example 10.20.0.1:9000", fits=_address(1), pattern=f"^{_HOST_PORT}$"
    ),
    "listen": Form(
        expects="host:port, for example 127.0.0.1:8080; port 0 lets the system choose",
        fits=_address(0),
        pattern=f"^{_HOST_PORT}$",
    ),
    "hive_id": Form(
        expects="1 to 64 letters, digits, '_' or '-'", fits=_hive_id, pattern=r"^[A-Za-z0-9_-]{1,64}$"
    ),
    "router_name": Form(expects="a router name such as RT.gateway", fits=_node_name("RT."), pattern=r"^RT\."),
    "node_name": Form(
        expects="a node name such as SY.frontdesk.gov or SY.frontdesk.gov@motherbee", fits=_node_name()
    ),
    "node_pattern": Form(
        expects="a node name in which * stands for any characters, at most 256 bytes, without spaces",
        fits=_node_pattern,
    ),
    "node_namespace": _text(
        "node pattern = namespace, such as AI.pump*@*=plant", r"[^\s=]{1,255}=[a-z0-9_-]{3,32}"
    ),
    "path": _text("a file system path", r"[^\u0000]{1,4096}"),
    "name": _text("a name of 1 to 64 letters, digits, '_', '-' or '.'", r"[A-Za-z0-9_.-]{1,64}"),
    "host": _text("a host name or address without a port", r"[A-Za-z0-9_.:-]{1,253}"),
    "host_or_network": Form(
        expects="a host name, name:port, or a network such as 10.0.0.0/8", fits=_host_or_network
    ),
    "tap": _text(
        "a tap's name and its installed program, such as tap-csv=/usr/bin/tap-csv",
        r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?=/[^\u0000]{1,4000}",
    ),
    "world_namespace": _text("3 to 32 of a-z, 0-9, '-' and '_'", r"[a-z0-9_-]{3,32}"),
    "origin": Form(
        expects="an origin such as https://panel.example:8443",
        fits=lambda text: _url("http", "https")(text) and urlsplit(text).path == "",
        pattern=r"^https?://[^/]+$",
    ),
    "http_url": Form(
        expects="an http:// or https:// address", fits=_url("http", "https"), pattern=r"^https?://"
    ),
    "nats_url": Form(expects="nats://host:port", fits=_url("nats"), pattern=r"^nats://"),
    "postgres_url": Form(
        expects="postgres://user:password@host:port/database",
        fits=_url("postgres", "postgresql"),
        pattern=r"^postgres(ql)?://",
    ),
    "mode": _text("octal permissions such as 0660", r"0?[0-7]{3}"),
    "token": _text("at least 16 printable ASCII characters without spaces", r"[\x21-\x7e]{16,512}"),
    "bearer": _text("printable ASCII characters without spaces", r"[\x21-\x7e]{1,512}"),
    "key32": Form(expects="base64 of 32 bytes", fits=_key_32_bytes, pattern=r"^[A-Za-z0-9+/]{43}=$"),
    "tenant_id": _text(
        "a tenant id such as tnt:00000000-0000-4000-8000-000000000000",
        r"tnt:[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    ),
    "word": _text("text of 1 to 256 characters", r"[^\u0000-\u001f\u007f]{1,256}"),
}
"""Every form by name."""
