"""What the orchestrator knows of software and hives, bound to the settings."""

from __future__ import annotations

from appliance.services.orchestrator import OrchestratorService
from appliance.services.orchestrator.hives import WanSettings
from appliance.services.orchestrator.software import Software, SoftwareConfig
from appliance.services.orchestrator.updates import SyncSettings
from appliance.supervise.tree import TreeLimits

from .hive import Hive

__all__ = ["bind_software"]


def bind_software(hive: Hive, orchestrator: OrchestratorService) -> Software:
    """Give the orchestrator its verbs for runtimes, updates, history, hives and storage."""
    settings = hive.settings
    software = Software(
        orchestrator.house,
        SoftwareConfig(
            blobs=settings.blob_dir,
            storage=settings.storage_dir,
            config_file=hive.config_file,
            limits=TreeLimits(
                max_bytes=settings.packages.max_bytes, max_entries=settings.packages.max_entries
            ),
            sync=SyncSettings(blob=settings.blob.sync.enabled, dist=settings.dist.sync.enabled),
            wan=WanSettings(listen=settings.wan.listen, authorized_hives=settings.wan.authorized_hives),
        ),
    )
    orchestrator.add(software.handlers)
    return software
