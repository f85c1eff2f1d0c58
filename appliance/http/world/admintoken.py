"""The administrator's token where nobody chose one: made at first start, in a 0600 file, never logged."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from appliance.store.files import durable_replace, storage_error
from appliance.wire.errors import Damaged

__all__ = ["admin_token"]

_BYTES: Final = 32
_LONGEST: Final = 512


def admin_token(given: str | None, path: Path) -> str:
    """``given`` (from ``hive.yaml`` or ``FLUX_ADMIN_TOKEN``), else what ``path`` holds, else a new one.

    Raises:
        Damaged: the file holds no token; it is not replaced, because somebody may have written it by hand.
        Unavailable: the storage does not answer.
    """
    if given is not None:
        return given
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        text = _make(path)
    except UnicodeDecodeError:
        text = ""
    except OSError as error:
        raise storage_error(error, str(path)) from error
    if not text or len(text) > _LONGEST or any(not "!" <= letter <= "~" for letter in text):
        raise Damaged(f"{path} holds no token", remedy="Remove the file: the next start makes a new token.")
    return text


def _make(path: Path) -> str:
    token = secrets.token_urlsafe(_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(path.parent)) from error
    durable_replace(path, token.encode() + b"\n", 0o600)
    return token
