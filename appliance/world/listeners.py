"""Who is told about committed updates: in order, each batch once; one that raises is counted and goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.system.log import get_logger

from .updates import Listener, Update

__all__ = ["Listeners"]

log = get_logger("world")


class Listeners:
    """See the module."""

    def __init__(self) -> None:
        self._all: list[Listener] = []
        self.failures = 0

    def __len__(self) -> int:
        return len(self._all)

    def add(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` from now on; the returned call ends it."""
        self._all.append(listener)

        def end() -> None:
            if listener in self._all:
                self._all.remove(listener)

        return end

    def tell(self, updates: Sequence[Update]) -> None:
        """Hand ``updates`` to everybody."""
        for listener in tuple(self._all):
            try:
                listener(updates)
            except Exception as error:  # noqa: BLE001 - what was committed is committed, whoever stumbles
                self.failures += 1
                if self.failures == 1:
                    log.error("world_listener_failed", code="WORLD_LISTENER_FAILED", error=repr(error))
