"""The hive's long-term key: made at first start, kept in one 0600 file, never logged.

It is an X25519 key, the kind that CURVE uses between hives. A box that nobody named yet calls itself
``unclaimed-<first 8 hex digits of its public key>`` (``design.md §4``).
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from appliance.store.files import durable_replace, storage_error
from appliance.wire.errors import Damaged

__all__ = ["HiveKey", "hive_key_file", "load_hive_key"]

_SECRET_BYTES = 32


class HiveKey(msgspec.Struct, frozen=True):
    """``public`` is safe to show; ``secret`` (32 bytes) is not, and ``repr`` leaves it out."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"HiveKey(public={self.public.hex()})"

    @property
    def unclaimed_id(self) -> str:
        """Hive id of a box without a name."""
        return f"unclaimed-{self.public.hex()[:8]}"


def hive_key_file(state: Path) -> Path:
    """Where the secret lies below the state directory."""
    return state / "hive.key"


def load_hive_key(state: Path) -> HiveKey:
    """The key in ``state``; a missing one is made.

    Raises:
        Damaged: the file does not hold 32 bytes; it is not replaced, because the motherbee knows the old key.
        Unavailable: the storage does not answer.
    """
    path = hive_key_file(state)
    try:
        secret = path.read_bytes()
    except FileNotFoundError:
        secret = _make(path)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    if len(secret) != _SECRET_BYTES:
        raise Damaged(
            f"{path}: {len(secret)} bytes where the hive's key has {_SECRET_BYTES}",
            remedy="Restore the file from a backup, or remove it and join the hive again.",
        )
    public = X25519PrivateKey.from_private_bytes(secret).public_key()
    return HiveKey(public.public_bytes_raw(), secret)


def _make(path: Path) -> bytes:
    secret = X25519PrivateKey.generate().private_bytes_raw()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(path.parent)) from error
    durable_replace(path, secret, 0o600)
    return secret
