"""SY.identity: who is who in the hive (``spec/identity-and-knowledge.md §2``)."""

from .desk import IdentityDesk
from .service import IdentityService, IdentitySettings

__all__ = ["IdentityDesk", "IdentityService", "IdentitySettings"]
