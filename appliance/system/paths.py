"""Where everything lies: the one home of directory and file names.

One setting, ``root``, moves every path (``design.md §4``). Without it the reference's places are used,
so that unmodified clients and operators' scripts find what they expect. Pure names: nothing here touches
the file system.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ROOT_ENV", "Paths", "router_socket_name"]

ROOT_ENV = "FLUXBEE_ROOT"
"""Environment variable that gives ``root`` to tools and nodes when no argument does."""


def router_socket_name(router_uuid_hex: str) -> str:
    """File name of a node socket: the router's uuid as 32 hex digits (``spec/node-protocol.md §1.1``)."""
    return f"{router_uuid_hex}.sock"


class Paths:
    """All places of one hive.

    Args:
        root: directory that holds ``etc``, ``lib`` and ``run``; ``None`` means the reference's places
            ``/etc/fluxbee``, ``/var/lib/fluxbee`` and ``/var/run/fluxbee``.
    """

    __slots__ = ("etc", "lib", "root", "run")

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root) if root is not None else None
        if self.root is None:
            self.etc, self.lib, self.run = (
                Path("/etc/fluxbee"),
                Path("/var/lib/fluxbee"),
                Path("/var/run/fluxbee"),
            )
        else:
            self.etc, self.lib, self.run = self.root / "etc", self.root / "lib", self.root / "run"

    @classmethod
    def from_environment(cls, root: Path | str | None = None) -> Paths:
        """Paths below ``root``, else below ``$FLUXBEE_ROOT``, else the reference's places."""
        return cls(root or os.environ.get(ROOT_ENV) or None)

    def __repr__(self) -> str:
        return f"Paths(root={str(self.root) if self.root else None!r})"

    @property
    def hive_yaml(self) -> Path:
        """The hand-written configuration."""
        return self.etc / "hive.yaml"

    @property
    def routes_yaml(self) -> Path:
        """Routes and VPN rules as an operator reads them; written by the route service."""
        return self.etc / "sy-config-routes.yaml"

    @property
    def routers(self) -> Path:
        """Directory of router sockets; nodes pick one from here."""
        return self.run / "routers"

    @property
    def state(self) -> Path:
        """Small persistent files: router identity, node uuids, secrets, counters."""
        return self.lib / "state"

    @property
    def config_versions(self) -> Path:
        """Version counters of SY.admin, one small file per group (``spec/admin-api.md §A.10``)."""
        return self.state / "config_versions"

    @property
    def world_admin_token(self) -> Path:
        """The generated token of the world's administration (``design.md §5``)."""
        return self.state / "world-admin.token"

    @property
    def world_keys(self) -> Path:
        """Keys under which credentials of connectors are stored, the current one first."""
        return self.state / "world-credentials.keys"

    @property
    def world_tap_states(self) -> Path:
        """Where named taps of the world continue: one file per source."""
        return self.state / "world" / "taps"

    @property
    def world_tap_runs(self) -> Path:
        """Private folders of taps that run now; nothing here outlives its run."""
        return self.run / "world-taps"

    @property
    def reserve(self) -> Path:
        """Space that is held back for a full disk (``design.md §5``)."""
        return self.lib / "reserve"

    @property
    def spool(self) -> Path:
        """Uploads that are checked before they are used; nothing here outlives its request."""
        return self.lib / "spool"

    @property
    def node_uuids(self) -> Path:
        """Persistent L1 uuids, one file per base name."""
        return self.state / "nodes"

    @property
    def blob(self) -> Path:
        """Root of the blob store (``staging`` and ``active`` below)."""
        return self.lib / "blob"

    @property
    def journals(self) -> Path:
        """One directory per journal below."""
        return self.lib / "journals"

    @property
    def regions_disk(self) -> Path:
        """Region environments that survive a reboot."""
        return self.lib / "regions"

    @property
    def regions_tmp(self) -> Path:
        """Region environments that a reboot may take (tmpfs on an image)."""
        return self.run / "regions"

    @property
    def generations(self) -> Path:
        """The page with one u64 generation per region."""
        return self.regions_tmp / "generations"

    @property
    def published(self) -> Path:
        """Compacted copies of regions for nodes and tools."""
        return self.run / "published"

    @property
    def nodes(self) -> Path:
        """Managed node instances: ``<KIND>/<name@hive>/``."""
        return self.lib / "nodes"

    @property
    def dist(self) -> Path:
        """Software: ``runtimes``, ``core`` and ``vendor`` below, each with its ``manifest.json``."""
        return self.lib / "dist"

    @property
    def hives(self) -> Path:
        """Registry of other hives: ``<id>/info.yaml``."""
        return self.lib / "hives"

    @property
    def node_restarts(self) -> Path:
        """How often each node was started again; kept over a restart of the control plane, not of the box."""
        return self.run / "node-restarts.json"

    @property
    def orchestrator_pid(self) -> Path:
        """Process id of the control plane (``spec/admin-api.md §D.1``)."""
        return self.run / "orchestrator.pid"

    @property
    def identity_map(self) -> Path:
        """Which identity each node has (``spec/admin-api.md §D.1``)."""
        return self.state / "orchestrator" / "identity-node-ilk-map.json"

    @property
    def node_logs(self) -> Path:
        """What nodes print: one directory per node, written by the keeper."""
        return self.lib / "logs" / "nodes"

    def router_identity(self, router_name: str) -> Path:
        """``identity.yaml`` of the router called ``router_name`` (``RT.x@hive``)."""
        return self.state / router_name / "identity.yaml"
