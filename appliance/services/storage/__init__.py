"""SY.storage: what became of the hive's turns (``spec/identity-and-knowledge.md §7``)."""

from .service import StorageService, StorageStatistics
from .turns import StorageFigures, TurnShelf

__all__ = ["StorageFigures", "StorageService", "StorageStatistics", "TurnShelf"]
