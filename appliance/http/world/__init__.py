"""The world's door: HTTP and WebSocket on port 3000 (``spec/flux-state.md §2, §4``)."""

from .connectors import ConnectorDesk, NoConnectors
from .credentials import Credentials
from .door import WorldDoor

__all__ = ["ConnectorDesk", "Credentials", "NoConnectors", "WorldDoor"]
