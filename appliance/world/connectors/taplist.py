"""Which taps may run, and what a source that runs one must look like (``spec/flux-state.md`` CN-23, CN-26).

A request names an entry of the setting ``world.taps`` and nothing else; the program behind it is looked at
anew before every run.
"""

from __future__ import annotations

import os
import re
import stat
import uuid
from collections.abc import Mapping
from typing import Final

import msgspec

from appliance.wire.errors import Invalid, Refused, Unavailable
from appliance.world.events import entity_id_fault

from .records import NamedSource, NewTap

__all__ = [
    "CONFIG_OWNER",
    "FLUX_OWNER",
    "TapRow",
    "checked_program",
    "checked_tap",
    "tap_rows",
    "tap_secrets",
]

CONFIG_OWNER: Final = "named"
FLUX_OWNER: Final = "named.flux"
"""Owners of a source's configuration and token; the connector is the source's id."""

_CONFIG_BYTES: Final = 64 << 10
_MAX_INTERVAL_S: Final = 31 * 86_400
_LONGEST_FIELD: Final = 200
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")

_object = msgspec.json.Decoder(dict[str, object])


class TapRow(msgspec.Struct, frozen=True):
    """One row of CN-26."""

    name: str
    label: str
    description: str = ""
    pip_url: str = ""


def tap_rows(taps: Mapping[str, str]) -> list[TapRow]:
    """CN-26: the taps that may be run, by name."""
    return [TapRow(name, name.removeprefix("tap-").replace("-", " ").capitalize()) for name in sorted(taps)]


def checked_tap(wanted: NewTap, taps: Mapping[str, str], now_ms: int) -> NamedSource:
    """The source that ``wanted`` describes, under a fresh id.

    Raises:
        Refused: the tap is not in the setting (``TAP_NOT_LISTED``).
        Invalid: a value is wrong; ``field`` names it.
    """
    if wanted.tap_name not in taps:
        raise Refused(
            f"tap {wanted.tap_name[:80]!r} is not listed in the setting world.taps; only installed taps run",
            code="TAP_NOT_LISTED",
            remedy="Install the tap and list it in world.taps as name=/path/to/program.",
        )
    if not 1 <= wanted.poll_interval_secs <= _MAX_INTERVAL_S:
        raise Invalid(f"poll_interval_secs must be 1 to {_MAX_INTERVAL_S}", field="poll_interval_secs")
    if not wanted.namespace or "/" in wanted.namespace or entity_id_fault(f"{wanted.namespace}/x"):
        raise Invalid("namespace must be the first part of an id, without a slash", field="namespace")
    if len(wanted.entity_key_field) > _LONGEST_FIELD:
        raise Invalid(f"entity_key_field has more than {_LONGEST_FIELD} characters", field="entity_key_field")
    return NamedSource(
        source_id=str(uuid.uuid4()),
        tap_name=wanted.tap_name,
        namespace=wanted.namespace,
        entity_key_field=wanted.entity_key_field,
        poll_interval_s=float(wanted.poll_interval_secs),
        created_at_ms=now_ms,
    )


def tap_secrets(wanted: NewTap) -> dict[str, str]:
    """What of a new source is kept sealed, by owner (CN-54).

    Raises:
        Invalid: the configuration is no JSON object, or too long; the token fits no header.
    """
    text = wanted.config_json
    try:
        if len(text.encode()) > _CONFIG_BYTES:
            raise Invalid(f"config_json has more than {_CONFIG_BYTES} bytes", field="config_json")
        _object.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        raise Invalid("config_json must be a string that holds a JSON object", field="config_json") from None
    secrets = {CONFIG_OWNER: text}
    if wanted.flux_namespace_token:
        if not _TOKEN.fullmatch(wanted.flux_namespace_token):
            raise Invalid(
                "flux_namespace_token must be printable ASCII without spaces", field="flux_namespace_token"
            )
        secrets[FLUX_OWNER] = wanted.flux_namespace_token
    return secrets


def checked_program(name: str, taps: Mapping[str, str]) -> str:
    """The program behind a tap; blocks.

    Raises:
        Refused: the tap is not listed, or its program is one that anybody could have put there.
        Unavailable: there is no program at that place.
    """
    program = taps.get(name)
    if program is None:
        raise Refused(f"{name} is not listed in the setting world.taps any more", code="TAP_NOT_LISTED")
    try:
        found = os.stat(program)
    except OSError as error:
        raise Unavailable(f"world.taps: {program}: {error.strerror}", code="TAP_MISSING") from error
    if not stat.S_ISREG(found.st_mode) or not os.access(program, os.X_OK):
        raise Unavailable(f"world.taps: {program} is no program", code="TAP_MISSING")
    if found.st_mode & stat.S_IWOTH:
        raise Refused(f"world.taps: {program} can be changed by anybody on this box", code="TAP_NOT_SAFE")
    return program
