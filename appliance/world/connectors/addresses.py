"""Which addresses a source may be asked at (``spec/flux-state.md`` CN-44, DF-18). Sans-IO.

A URL is judged twice: its text when it comes in, and the addresses that its host resolves to each time before
a connection is made; the connection goes to an address that was judged, never to the name again, so a name
that changes its mind (DNS rebinding) gains nothing. Link-local addresses, where clouds keep their metadata,
are refused whatever the settings say; this box itself only answers when it is listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from appliance.wire.errors import Invalid, Refused

__all__ = ["Reach", "ReachPolicy", "Target", "parse_target"]

Reach = Literal["network", "public", "listed"]
Address = IPv4Address | IPv6Address

_LONGEST: Final = 2000
_TEXT: Final = re.compile(r"[\x21-\x7e]+")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_METADATA: Final = frozenset(
    {
        ip_address("168.63.129.16"),  # Azure's host agent
        ip_address("100.100.100.200"),  # Alibaba
        ip_address("fd00:ec2::254"),  # EC2 over IPv6
    }
)
_THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request goes: ``host`` in lower case and without brackets, ``path`` with its query."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What ``Host`` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Read an ``http`` or ``https`` address.

    Raises:
        Invalid: another scheme, a user or password in it, a host that is neither a name nor a plain address
            (numbers such as ``2130706433`` or ``0177.1`` mean 127.0.0.1 to some resolvers), or a bad port.
    """
    if len(url) > _LONGEST or not _TEXT.fullmatch(url) or "\\" in url:
        raise Invalid("the address has characters that no URL has, or is too long", field="url")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"the address is no URL: {error}", field="url") from error
    if parts.scheme not in ("http", "https"):
        raise Invalid(f"only http and https are asked, not {parts.scheme or 'nothing'!r}", field="url")
    if "@" in parts.netloc:
        raise Invalid("user and password do not belong into the address", field="url")
    secure = parts.scheme == "https"
    if port is None:
        port = 443 if secure else 80
    if not 0 < port < 65536:
        raise Invalid("the port must be 1 to 65535", field="url")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(secure=secure, host=_host(parts.netloc, parts.hostname or ""), port=port, path=path)


def _host(netloc: str, host: str) -> str:
    if netloc.startswith("["):
        try:
            return str(IPv6Address(host)) if "%" not in host else _bad_host(host)
        except ValueError:
            return _bad_host(host)
    try:
        return str(IPv4Address(host))
    except ValueError:
        labels = host.removesuffix(".").split(".")
        if _NUMERIC.fullmatch(labels[-1]) or not all(_LABEL.fullmatch(label) for label in labels):
            return _bad_host(host)
        return ".".join(labels)


def _bad_host(host: str) -> str:
    raise Invalid(f"{host!r} is neither a host name nor an address", field="url")


class ReachPolicy:
    """Decides which of a host's addresses may be connected to.

    Args:
        reach: ``network``: all but this box; ``public``: global addresses only; ``listed``: none but
            ``allowed``.
        allowed: ``name``, ``name:port``, an address or a network: asked whatever ``reach`` says.
    """

    def __init__(self, reach: Reach = "network", allowed: Iterable[str] = ()) -> None:
        self._reach = reach
        self._names: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for entry in allowed:
            try:
                self._networks.append(ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry.lower())

    def permitted(self, target: Target, addresses: Sequence[str]) -> list[str]:
        """Those of ``addresses`` (literals that ``target.host`` resolves to) that may be connected to.

        Raises:
            Refused: none may.
        """
        good = []
        for text in addresses:
            try:
                address = _plain(ip_address(text))
            except ValueError:
                continue
            if self._may(target, address):
                good.append(str(address))
        if not good:
            raise _refusal(target)
        return good

    def check_peer(self, target: Target, address: str, own: str) -> None:
        """Refuse a connection to ``address`` whose own end is ``own`` when it leads back to this box.

        Raises:
            Refused: it does, and the box is not listed.
        """
        if ip_address(address) == ip_address(own) and not self._lists(target, ip_address(address)):
            raise _refusal(target)

    def check_literal(self, target: Target) -> None:
        """Refuse at once what needs no resolver; raises as :meth:`permitted`."""
        try:
            ip_address(target.host)
        except ValueError:
            if target.host == "localhost" or target.host.endswith(".localhost"):
                self.permitted(target, ["127.0.0.1"])
            return
        self.permitted(target, [target.host])

    def _lists(self, target: Target, address: Address) -> bool:
        named = target.host in self._names or f"{target.host}:{target.port}" in self._names
        return named or any(address in network for network in self._networks)

    def _may(self, target: Target, address: Address) -> bool:
        faces = (address, *_embedded(address))
        if any(_never(face) for face in faces):
            return False
        if self._lists(target, address):
            return True
        if self._reach == "listed" or any(face.is_loopback for face in faces):
            return False
        return self._reach == "network" or all(face.is_global for face in faces)


def _refusal(target: Target) -> Refused:
    return Refused(
        f"{target.host} is not an address that may be asked",
        code="ADDRESS_REFUSED",
        remedy="Add the host to world.connectors.allowed_hosts, or change world.connectors.reach.",
    )


def _plain(address: Address) -> Address:
    """``::ffff:127.0.0.1`` is 127.0.0.1."""
    return getattr(address, "ipv4_mapped", None) or address


def _embedded(address: Address) -> list[Address]:
    """IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, IPv4Address):
        return []
    found: list[Address] = [one for one in (address.sixtofour,) if one is not None]
    if address.teredo is not None:
        found.append(address.teredo[1])
    if address in _NAT64 or int(address) >> 32 == 0 < int(address) >> 8:
        found.append(IPv4Address(int(address) & 0xFFFF_FFFF))
    return found


def _never(address: Address) -> bool:
    return (
        address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA
        or (isinstance(address, IPv4Address) and (address.is_reserved or address in _THIS_NETWORK))
        or (isinstance(address, IPv6Address) and address.is_site_local)
    )
