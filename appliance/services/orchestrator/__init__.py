"""SY.orchestrator: nodes, runtimes and hives by message. The rules are in :mod:`appliance.supervise`."""

from __future__ import annotations

from .config import OrchestratorConfig
from .service import OrchestratorService

__all__ = ["OrchestratorConfig", "OrchestratorService"]
