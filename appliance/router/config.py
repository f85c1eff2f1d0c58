"""Who this router is and the bounds it works in, as the engine needs them. Plain data."""

from __future__ import annotations

import msgspec

from .outbox import Limits

__all__ = ["EngineSettings"]


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What ``app`` takes from ``hive.yaml`` for the engine.

    Attributes:
        hive: id of this hive; appended to names without one.
        router_uuid: canonical text.
        router_name: ``RT.x@hive``.
        queues: bounds of each recipient's queue.
        max_nodes: registered nodes at most (``routing-and-regions §8``); the appliance's own do not count.
        hello_timeout_s: how long an accepted socket may stay silent.
        system_uids: uids that may use ``SY.``/``RT.`` names without an inherited socketpair.
        admin_nodes: names (``*`` globs) that may ask router internals beside ``SY.*``.
        open_security: ``security.local: open`` — the reference's behaviour, any process may be anybody.
        static_override: static routes before live nodes.
    """

    hive: str
    router_uuid: str
    router_name: str
    queues: Limits = Limits()
    max_nodes: int = 1024
    hello_timeout_s: float = 5.0
    system_uids: frozenset[int] = frozenset({0})
    admin_nodes: tuple[str, ...] = ()
    open_security: bool = False
    static_override: bool = False
