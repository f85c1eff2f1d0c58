"""Errands to the keeper that must not be lost: a record that stays keeps its place, and the name its claim.

A keeper refuses what comes in masses, and answers late when its medium is slow. What is to be forgotten is
therefore asked again; what lives although nobody wants it, its launch having been answered late, is ended.
"""

from __future__ import annotations

from typing import Final

import trio

from appliance.system.log import get_logger
from appliance.wire.errors import Busy, Conflict, FluxbeeError, NotFound, Unavailable

from .processes import NodeKeeper

__all__ = ["AGAIN_S", "forget_record"]

AGAIN_S: Final = 0.5
"""Until something is tried again that the keeper did not take."""

_TRIES: Final = 5

log = get_logger("supervise")


async def forget_record(keeper: NodeKeeper, name: str) -> int:
    """Have the keeper forget the ended process of ``name``; a living one is killed, its end is an event.

    Returns:
        how often the keeper refused; the next launch of the name replaces a record that stays.
    """
    for tried in range(_TRIES):
        try:
            await keeper.forget_node(name)
        except NotFound:
            return tried
        except Conflict:
            log.warning("node_unwanted", code="NODE_UNWANTED", node=name)
            return tried + 1 + await _end(keeper, name)
        except (Busy, Unavailable):
            await trio.sleep(AGAIN_S)
        else:
            return tried
    return _TRIES


async def _end(keeper: NodeKeeper, name: str) -> int:
    try:
        await keeper.stop_node(name, signal="SIGKILL")
    except FluxbeeError:
        return 1
    return 0
