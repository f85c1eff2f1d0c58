"""Who is who: interlocutors, their channels and tenants, and the rules of changing them. Sans-IO."""

from .directory import Directory
from .ops import Op, Transaction, UpsertIlk, UpsertMeta, UpsertTenant, decode_transaction, encode_transaction
from .registry import Decision, Registry, RegistryLimits
from .rules import IDENTITY_CALLERS, may_call

__all__ = [
    "IDENTITY_CALLERS",
    "Decision",
    "Directory",
    "Op",
    "Registry",
    "RegistryLimits",
    "Transaction",
    "UpsertIlk",
    "UpsertMeta",
    "UpsertTenant",
    "decode_transaction",
    "encode_transaction",
    "may_call",
]
