"""What feeds a world by itself (``spec/flux-state.md §5``)."""

from .book import Secrets
from .manager import Connectors
from .named import TapPlaces
from .oauth import PROVIDERS, OAuthBook, OAuthClientOptions, authorize_url
from .records import KNOWN, ConnectorOptions, ConnectorStatistics, NewSource, NewTap, SourceReport
from .taplist import TapRow
from .vault import KeyRing, key_ring

__all__ = [
    "KNOWN",
    "PROVIDERS",
    "ConnectorOptions",
    "ConnectorStatistics",
    "Connectors",
    "KeyRing",
    "NewSource",
    "NewTap",
    "OAuthBook",
    "OAuthClientOptions",
    "Secrets",
    "SourceReport",
    "TapPlaces",
    "TapRow",
    "authorize_url",
    "key_ring",
]
