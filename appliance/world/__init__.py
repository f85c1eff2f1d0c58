"""World state: immutable events, the entities derived from them, their history (``spec/flux-state.md``)."""

from .engine import Listing, WorldEngine
from .types import (
    INTERNAL,
    AdminConfig,
    BatchReport,
    Caller,
    DeleteReport,
    EntityAt,
    HistoryPage,
    Namespace,
    NewNamespace,
    OverQuota,
    RateLimited,
    Receipt,
    Result,
    Unauthorized,
    WorldMetrics,
    WorldOptions,
    WorldStatistics,
)
from .updates import Listener, Update, UpdateFrame

__all__ = [
    "INTERNAL",
    "AdminConfig",
    "BatchReport",
    "Caller",
    "DeleteReport",
    "EntityAt",
    "HistoryPage",
    "Listener",
    "Listing",
    "Namespace",
    "NewNamespace",
    "OverQuota",
    "RateLimited",
    "Receipt",
    "Result",
    "Unauthorized",
    "Update",
    "UpdateFrame",
    "WorldEngine",
    "WorldMetrics",
    "WorldOptions",
    "WorldStatistics",
]
