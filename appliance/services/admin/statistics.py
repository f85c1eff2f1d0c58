"""What SY.admin counts. Plain integers of the one loop that it runs on."""

from __future__ import annotations

import msgspec

__all__ = ["AdminStatistics", "Counts"]


class AdminStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since start, and what is under way now.

    ``reads`` and ``mutations`` are executed actions, ``reads_shared`` reads that got the answer to an equal
    question, ``failed`` those whose outcome was an error,
    ``transport_failures`` those whose peer did not answer. ``commands`` came as ADMIN_COMMAND,
    ``commands_refused`` from somebody who may not, ``commands_busy`` beyond the bound, ``answers_lost`` could
    not be sent. ``locks_held`` resources are being changed or waited for; ``lock_timeouts`` gave up waiting.
    ``tap_dropped`` and ``log_dropped`` are events that a slow browser missed.
    """

    reads: int
    reads_shared: int
    mutations: int
    failed: int
    transport_failures: int
    commands: int
    commands_refused: int
    commands_busy: int
    answers_lost: int
    running: int
    locks_held: int
    lock_timeouts: int
    broadcasts: int
    broadcast_failures: int
    counter_bytes_written: int
    streams_open: int
    tap_dropped: int
    log_dropped: int


class Counts(msgspec.Struct):
    """The mutable side of :class:`AdminStatistics`."""

    answers_lost: int = 0
    broadcast_failures: int = 0
    broadcasts: int = 0
    commands: int = 0
    commands_busy: int = 0
    commands_refused: int = 0
    counter_bytes_written: int = 0
    failed: int = 0
    lock_timeouts: int = 0
    log_dropped: int = 0
    mutations: int = 0
    reads: int = 0
    reads_shared: int = 0
    running: int = 0
    streams_open: int = 0
    tap_dropped: int = 0
    transport_failures: int = 0

    def freeze(self, *, locks_held: int) -> AdminStatistics:
        """The counts as they are now."""
        return AdminStatistics(locks_held=locks_held, **msgspec.structs.asdict(self))
