"""Secrets of sources, sealed: AES-256-GCM under a key that lies elsewhere (``spec/flux-state.md`` CN-04).

What is sealed is bound to its place: owner, connector and field are the associated data, so a row that was
moved to another place does not open. Each secret names its key; a ring with an older key opens it and a new
key seals it again (rotation). Secrets are never in a ``repr`` and never in an error.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance.store.files import durable_replace, storage_error
from appliance.wire.errors import Damaged

__all__ = ["KeyRing", "Sealed", "key_ring"]

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_MAX_KEYS: Final = 16


class Sealed(msgspec.Struct, frozen=True):
    """A secret at rest: which key, nonce, ciphertext with its tag."""

    key_id: str
    nonce: bytes
    data: bytes


class KeyRing:
    """The current key and older ones that still open.

    Args:
        keys: each of 32 bytes, the current one first.
    """

    __slots__ = ("_keys", "current")

    def __init__(self, keys: Iterable[bytes]) -> None:
        ordered = list(dict.fromkeys(keys))
        if not ordered or any(len(key) != _KEY_BYTES for key in ordered):
            raise ValueError(f"a key ring needs keys of {_KEY_BYTES} bytes")
        self._keys = {_key_id(key): AESGCM(key) for key in ordered}
        self.current = _key_id(ordered[0])

    def seal(self, secret: str, *, owner: str, connector: str, field: str) -> Sealed:
        """Seal ``secret`` for its place under the current key."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        data = self._keys[self.current].encrypt(nonce, secret.encode(), _place(owner, connector, field))
        return Sealed(self.current, nonce, data)

    def unseal(self, sealed: Sealed, *, owner: str, connector: str, field: str) -> str:
        """The secret.

        Raises:
            Damaged: the key is not on the ring, or the bytes are not what was sealed for this place.
        """
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise Damaged(
                f"the key {sealed.key_id} of a stored credential is not there",
                code="CREDENTIAL_KEY_MISSING",
                remedy="Put the key back (FLUX_ENCRYPTION_KEY or the file of keys), or store the token anew.",
            )
        try:
            return key.decrypt(sealed.nonce, sealed.data, _place(owner, connector, field)).decode()
        except (InvalidTag, ValueError) as error:
            raise Damaged("a stored credential does not open", remedy="Store the token anew.") from error


def _key_id(key: bytes) -> str:
    return sha256(b"fluxbee credential key\0" + key).hexdigest()[:8]


def _place(owner: str, connector: str, field: str) -> bytes:
    """Lengths first: no two places have the same bytes."""
    parts = [part.encode() for part in (owner, connector, field)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def key_ring(given: str | None, path: Path) -> KeyRing:
    """The ring: ``given`` (base64, from the settings) before the keys of the file ``path``.

    Without either, a key is made and kept in ``path`` (0600). The file has one base64 key per line, the
    current one first: a new first line rotates.

    Raises:
        Damaged: the file holds something else; it is not replaced.
        Unavailable: the storage does not answer.
    """
    try:
        lines = path.read_text("ascii").split()
    except FileNotFoundError:
        lines = [] if given is not None else [_make(path)]
    except UnicodeDecodeError:
        lines = [""]
    except OSError as error:
        raise storage_error(error, str(path)) from error
    try:
        keys = [base64.b64decode(line, validate=True) for line in ([given] if given else []) + lines]
        if len(keys) > _MAX_KEYS:
            raise ValueError(len(keys))
        return KeyRing(keys)
    except (binascii.Error, ValueError):
        raise Damaged(
            f"{path} holds no keys", remedy="Restore the file; without its keys, stored credentials are lost."
        ) from None


def _make(path: Path) -> str:
    line = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(path.parent)) from error
    durable_replace(path, line.encode() + b"\n", 0o600)
    return line
