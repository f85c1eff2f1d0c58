"""Everything that a state journal holds, in order: the newest good base image, then the records after it.

This is how an owner rebuilds its view. Damage on the way is not hidden: what could not be read comes as a
``Gap``, and it is the owner's choice to go on without.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from appliance.wire.errors import Damaged

from .journal import Journal
from .journal_types import Gap

__all__ = ["Replayed", "replay"]

Replayed = list[tuple[int, bytes]] | Gap
"""Records with their sequence numbers (those of an image all carry the number it reaches to), or a gap."""


async def replay(journal: Journal) -> AsyncIterator[Replayed]:
    """Read ``journal`` from the beginning; returns when the last record that was written is reached.

    Raises:
        Unavailable: the disk cannot be read.
    """
    image, upto_seq = await trio.to_thread.run_sync(_image, journal)
    if image:
        yield [(upto_seq, record) for record in image]
    position = upto_seq + 1
    while True:
        batch = await journal.read(position, level="written")
        if not batch:
            return
        if batch.gap is not None:
            yield batch.gap
        if batch.records:
            yield [(batch.first_seq + index, record) for index, record in enumerate(batch.records)]
        position = batch.last_seq + 1


def _image(journal: Journal) -> tuple[list[bytes], int]:
    """The newest image that reads well; a bad one is set aside by the journal, and the next is older."""
    while True:
        info = journal.base
        if info is None:
            return [], 0
        try:
            return [record for records in journal.read_base() for record in records], info.upto_seq
        except Damaged:
            continue
