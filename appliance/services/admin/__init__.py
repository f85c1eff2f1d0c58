"""SY.admin: every admin action, whether it comes over HTTP or as an ADMIN_COMMAND."""

from .peers import Direct
from .service import AdminService
from .statistics import AdminStatistics
from .streams import NodeLogs, Streams

__all__ = ["AdminService", "AdminStatistics", "Direct", "NodeLogs", "Streams"]
