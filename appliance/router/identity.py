"""The router's own identity: a uuid that survives restarts, in the file that tools know.

``identity.yaml`` has the reference's keys (``spec/node-protocol.md §1.1``), so that tools which compute the
socket path from it keep working.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from appliance.store.files import durable_replace, storage_error
from appliance.wire.errors import Damaged
from appliance.wire.ids import NodeUuid, canonical_uuid, new_uuid

__all__ = ["load_router_uuid"]


_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""PyYAML's own errors, and what its constructors let through for tags such as ``!!timestamp x``."""


class _Layer1(msgspec.Struct):
    uuid: str


class _Identity(msgspec.Struct):
    layer1: _Layer1


def load_router_uuid(path: Path, router_name: str, now_s: int) -> NodeUuid:
    """The uuid in ``path`` (``identity.yaml``); a missing file is made.

    Args:
        path: the identity file of this router.
        router_name: full L2 name, written for people and tools.
        now_s: wall clock, epoch seconds, for ``created_at``.

    Raises:
        Damaged: the file does not hold a uuid. It is not regenerated: nodes and hives know the old one.
        Unavailable: the storage does not answer.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return _create(path, router_name, now_s)
    except OSError as error:
        raise storage_error(error, str(path)) from error
    except UnicodeDecodeError:
        text = ""
    try:
        uuid = canonical_uuid(msgspec.convert(yaml.safe_load(text), _Identity).layer1.uuid)
    except (msgspec.ValidationError, *_NOT_YAML):
        uuid = None
    if uuid is None:
        raise Damaged(
            f"{path}: no layer1.uuid in it",
            remedy="Restore the file from a backup, or remove it to give the router a new uuid.",
        )
    return uuid


def _create(path: Path, router_name: str, now_s: int) -> NodeUuid:
    uuid = new_uuid()
    identity = {
        "layer1": {"uuid": uuid},
        "layer2": {"name": router_name},
        "shm": {"name": f"/jsr-{uuid.replace('-', '')}"},
        "created_at": str(now_s),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(path.parent)) from error
    durable_replace(path, yaml.safe_dump(identity, sort_keys=False).encode(), 0o644)
    return uuid
