"""Who this box is, and what a plane's body gets from the process that it runs in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from appliance.keeper.trio_plane import TrioPlane
from appliance.link.keys import load_hive_key
from appliance.router.config import EngineSettings
from appliance.router.outbox import Limits
from appliance.router.plane import DataPlaneConfig
from appliance.router.turns import TurnBudget
from appliance.sdk import Dial
from appliance.services.health import PlaneState
from appliance.settings import Configuration, Settings
from appliance.store.generations import GenerationPage
from appliance.store.region_admit import LIVE
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.system.paths import Paths
from appliance.wire.names import full_name

__all__ = ["Hive", "Seams"]


class Hive(msgspec.Struct, frozen=True, kw_only=True):
    """Who this box is and where its things lie; made once, before any plane starts."""

    settings: Settings
    paths: Paths
    hive_id: str
    router_name: str
    config_file: Path

    @classmethod
    def of(cls, configuration: Configuration) -> Hive:
        """From the configuration; a box without a name is called after its key.

        Raises:
            Damaged, Unavailable: the key cannot be read or made.
        """
        settings = configuration.settings
        paths = Paths(settings.root)
        hive_id = settings.hive_id or load_hive_key(paths.state).unclaimed_id
        name = full_name(settings.routing.router_name or settings.wan.gateway_name, hive_id)
        file = Path(configuration.file) if configuration.file else paths.hive_yaml
        return cls(settings=settings, paths=paths, hive_id=hive_id, router_name=name, config_file=file)

    def data_plane_config(self) -> DataPlaneConfig:
        """What the data plane needs of the settings."""
        settings = self.settings
        queues = settings.queues
        security = settings.security
        return DataPlaneConfig(
            engine=EngineSettings(
                hive=self.hive_id,
                router_uuid="",
                router_name=self.router_name,
                queues=Limits(
                    frames=queues.frames,
                    size_bytes=queues.bytes,
                    pause_s=queues.pause_ms / 1000,
                    stall_s=queues.stall_ms / 1000,
                ),
                max_nodes=settings.limits.nodes,
                system_uids=frozenset({0, *security.system_uids}),
                admin_nodes=security.admin_nodes,
                open_security=security.local == "open",
                static_override=settings.routing.static_override,
            ),
            socket_mode=security.socket_mode_bits,
            socket_group=security.socket_group,
            thread_capacity=settings.limits.threads,
            turn_budget=TurnBudget(
                rate_bytes_per_s=settings.turns.rate_bytes_per_s,
                burst_bytes=settings.turns.burst_bytes,
                daily_bytes=settings.turns.daily_bytes,
            ),
            turns_keep_bytes=settings.turns.keep_bytes,
            turns_keep_s=settings.turns.keep_days * 86_400.0,
            reserve_bytes=settings.journals.reserve_bytes,
            flush_interval_s=settings.journals.flush_ms / 1000,
            flush_bytes=settings.journals.flush_bytes,
            sync_interval_s=settings.journals.sync_ms / 1000,
            live=msgspec.structs.replace(LIVE, map_bytes=settings.regions.tmpfs_map_bytes),
        )


class Seams(msgspec.Struct, frozen=True, kw_only=True):
    """What a plane's body needs from the process that it runs in.

    Attributes:
        dial: makes, for a service's name, the function that connects it to the router.
        page: where generations are announced.
        own_eventfd: readable when another plane announced something; ``None`` in one process.
        planes: what the keeper says about the planes; ``None`` without a keeper.
        keeper: the keeper itself, which starts and stops nodes; ``None`` without one (a harness).
        reserve: space for a full disk, as this process sees it.
    """

    dial: Callable[[str], Dial]
    page: GenerationPage
    own_eventfd: int | None = None
    planes: Callable[[], Awaitable[Sequence[PlaneState]]] | None = None
    keeper: TrioPlane | None = None
    reserve: Reserve = NO_RESERVE
