"""SY.admin: every admin action, whether it comes over HTTP or as an ADMIN_COMMAND."""

from .service import AdminService
from .statistics import AdminStatistics

__all__ = ["AdminService", "AdminStatistics"]
