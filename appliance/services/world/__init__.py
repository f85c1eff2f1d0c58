"""SY.world: world state by message."""

from .service import WorldService

__all__ = ["WorldService"]
