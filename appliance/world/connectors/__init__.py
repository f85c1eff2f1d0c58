"""What feeds a world by itself (``spec/flux-state.md §5``)."""

from .book import Secrets
from .manager import Connectors
from .oauth import PROVIDERS, OAuthBook, OAuthClientOptions, authorize_url
from .records import KNOWN, ConnectorOptions, ConnectorStatistics, NewSource, SourceReport
from .vault import KeyRing, key_ring

__all__ = [
    "KNOWN",
    "PROVIDERS",
    "ConnectorOptions",
    "ConnectorStatistics",
    "Connectors",
    "KeyRing",
    "NewSource",
    "OAuthBook",
    "OAuthClientOptions",
    "Secrets",
    "SourceReport",
    "authorize_url",
    "key_ring",
]
