"""The keeper: the parent process that starts and supervises the planes, and what a plane is given.

:class:`appliance.keeper.trio_plane.TrioPlane` is not re-exported: it imports trio, the keeper does not.
"""

from appliance.keeper.keeper import Keeper
from appliance.keeper.numbers import (
    EX_CLEAN,
    EX_CONFIG,
    EX_SOFTWARE,
    EX_UNCLEAN,
    ROUTING_PLANE,
    TOGETHER_PLANE,
    KeeperSettings,
)
from appliance.keeper.plane import IncomingLink, PlaneContext, PlaneMain, PlaneStatistics
from appliance.keeper.protocol import KeeperStatistics, KeeperStatus, PlaneStatus, Stop

__all__ = [
    "EX_CLEAN",
    "EX_CONFIG",
    "EX_SOFTWARE",
    "EX_UNCLEAN",
    "ROUTING_PLANE",
    "TOGETHER_PLANE",
    "IncomingLink",
    "Keeper",
    "KeeperSettings",
    "KeeperStatistics",
    "KeeperStatus",
    "PlaneContext",
    "PlaneMain",
    "PlaneStatistics",
    "PlaneStatus",
    "Stop",
]
