"""Region ``identity`` as a view of the directory: changed by the operations that the journal has taken.

A region that misses only the newest changes takes them one by one; any other (new, set aside, of another
journal) is emptied and filled in slices that let the loop breathe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import trio

from appliance.identity import Directory, Op, UpsertIlk, UpsertMeta, UpsertTenant
from appliance.identity.directory import channel_key
from appliance.store.layouts import (
    IDENTITY,
    IDENTITY_CHANNEL,
    IDENTITY_META,
    IDENTITY_NODE_NAME,
    ILK,
    TENANT,
)
from appliance.store.region import Change, Environment, write_in_slices
from appliance.wire.identity import ChannelRecord, IlkRecord, id_uuid

from ..control_regions import ControlRegions

__all__ = ["Applied", "IdentityRegion", "channel_digest"]

_NAME: Final = IDENTITY.name
_SLICE_OPS: Final = 50
"""An interlocutor is some four puts, and a slice should stay below 200 (``design.md §4``)."""


class Applied(NamedTuple):
    """Operations of journal record ``sequence``, which follows record ``after``."""

    after: int
    sequence: int
    ops: tuple[Op, ...]


def channel_digest(channel: ChannelRecord) -> bytes:
    """Key of a channel's row: SHA-256 of realm 0x1f type 0x1f address key."""
    return hashlib.sha256("\x1f".join(channel_key(channel)).encode()).digest()


class IdentityRegion:
    """The one writer of region ``identity``.

    Args:
        shared: environment ``control``.
        on_trouble: called when the region has to be shown again.
    """

    def __init__(self, shared: ControlRegions, on_trouble: Callable[[], None]) -> None:
        self._region = shared.region(IDENTITY, on_trouble)

    @property
    def failure(self) -> str | None:
        """Why it does not show the newest directory; ``None`` when it does."""
        return self._region.failure

    async def show(self, directory: Directory, sequence: int, newest: Sequence[Applied]) -> None:
        """Make the region a view of ``directory``, which nobody may change meanwhile.

        Args:
            directory: what the journal says up to record ``sequence``.
            sequence: 0 before the first record.
            newest: the last changes, oldest first, as far as they are known.

        Raises:
            Conflict: another process writes the environment.
            Unavailable, Busy, Damaged: it is behind now; the next call tries again.
        """
        with self._region.use() as environment:
            missing = _missing(environment, directory, sequence, newest)
            if missing is None:
                await _fill(environment, directory, sequence)
                return
            for change in missing:
                with environment.change(_NAME, applied_seq=change.sequence) as txn:
                    for op in change.ops:
                        _put(txn, op)


def _missing(
    environment: Environment, directory: Directory, sequence: int, newest: Sequence[Applied]
) -> Sequence[Applied] | None:
    """The changes that the region lacks; ``None`` when they are not known and it must be filled."""
    if not environment.ready(_NAME):
        return None
    shown = environment.get(IDENTITY_META, "v")
    if shown is not None and (directory.meta is None or directory.meta.epoch != shown.epoch):
        return None  # a view of another journal, whatever the numbers say
    applied = environment.applied_seq(_NAME)
    if applied == sequence:
        return ()
    first = next((index for index, one in enumerate(newest) if one.after == applied), None)
    if first is None or newest[-1].sequence != sequence:
        return None
    return newest[first:]


async def _fill(environment: Environment, directory: Directory, sequence: int) -> None:
    environment.reset(_NAME)
    for _ in write_in_slices(environment, (_NAME,), tuple(directory.rows()), _put, limit=_SLICE_OPS):
        await trio.lowlevel.checkpoint()
    environment.finish_rebuild(_NAME, applied_seq=sequence)


def _put(txn: Change, op: Op) -> None:
    match op:
        case UpsertMeta(row=meta):
            IDENTITY_META.put(txn, "v", meta)
        case UpsertTenant(row=tenant):
            TENANT.put(txn, id_uuid(tenant.tenant_id), tenant)
        case UpsertIlk(row=ilk):
            _put_ilk(txn, ilk)


def _put_ilk(txn: Change, ilk: IlkRecord) -> None:
    key = id_uuid(ilk.ilk_id)
    before = ILK.get(txn, key)
    if before is not None and before.deleted_at_ms is None:
        if (node := before.named("node_name")) is not None:
            IDENTITY_NODE_NAME.delete(txn, node)
        for channel in before.channels:
            IDENTITY_CHANNEL.delete(txn, channel_digest(channel))
    ILK.put(txn, key, ilk)
    if ilk.deleted_at_ms is not None:
        return
    if (node := ilk.named("node_name")) is not None:
        IDENTITY_NODE_NAME.put(txn, node, key)
    for channel in ilk.channels:
        IDENTITY_CHANNEL.put(txn, channel_digest(channel), (id_uuid(channel.ich_id), key))
