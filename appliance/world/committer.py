"""From requests to committed events: numbers, the wait for the disk, the order in which events appear.

A request is prepared and handed to the journal in one go, so its numbers are certain; then it waits. What
the disk has confirmed becomes visible strictly in order of numbers, whoever is woken first. When an append
fails, nothing of it stays: neither its numbers nor its place in a history. Bounded: publishers wait a little
while the overlay or the disk is behind, then get ``Busy``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

from appliance.store.journal import Journal
from appliance.store.reserve import Reserve
from appliance.system.clock import Clock
from appliance.wire.errors import Busy, FluxbeeError, Invalid, Unavailable

from .events import Event
from .flight import Flight
from .intake import Intake
from .listeners import Listeners
from .listing import Listing, common_prefix
from .meter import Meter
from .state import WorldState
from .types import Caller
from .view import WorldView

__all__ = ["ROOM_WAIT_S", "WORLD_BUSY", "WorldCommitter"]

WORLD_BUSY = "WORLD_BUSY"
ROOM_WAIT_S = 2.0
"""How long a publisher waits for room before it is sent away."""
MAX_FLYING_BYTES = 32 << 20
_STALLED = "STORAGE_STALLED"
_COUNT_PAGE = 2000
_WRITTEN_TIMES = 2
"""An event is written into the journal, and soon into the region, whose pages are copied when they change."""


class WorldCommitter:
    """See the module.

    Args:
        journal: open and running.
        state: the world as it is known.
        view: its region.
        clock: for stamps and buckets.
        meter: counts live events.
        listeners: are told what was committed.
        changed: called after commits: there is something to project.
        reserve: refuses events while the disk is full; what deletes or administrates may use it.
    """

    def __init__(
        self,
        journal: Journal,
        state: WorldState,
        view: WorldView,
        clock: Clock,
        meter: Meter,
        listeners: Listeners,
        changed: Callable[[], None],
        reserve: Reserve,
    ) -> None:
        self._journal = journal
        self._state = state
        self._view = view
        self._clock = clock
        self._meter = meter
        self._listeners = listeners
        self._changed = changed
        self._reserve = reserve
        self._intake = Intake(state, view)
        self._flights: deque[Flight] = deque()
        self._flying_bytes = 0
        self._space = trio.lowlevel.ParkingLot()
        self.administering = trio.Lock()
        self.closed: FluxbeeError | None = None
        """Why nothing is taken now (a restore, the end)."""
        self.failure: FluxbeeError | None = None
        self.batches = self.refused = self.duplicates = self.busy = self.failures = 0

    # -- requests ----------------------------------------------------------------------------------------

    async def commit(
        self, events: Sequence[Event | str], caller: Caller, *, essential: bool = False
    ) -> Flight:
        """Store those ``events`` that may be stored, all or none; durable and visible on return.

        ``essential`` ones are stored on a full disk too, as far as the reserve goes.

        Raises:
            Busy: no room for longer than ``ROOM_WAIT_S``.
            Invalid: more bytes than one append may have.
            Unavailable: the disk failed, or is full; nothing was stored. With code ``STORAGE_STALLED`` it may
                be yet.
        """
        if essential:
            await self._reserve.make_way(self._journal)
        else:
            self._reserve.check(_WRITTEN_TIMES * self._state.overlay.size_bytes)
        await self._room()
        await self._count_quota(caller)
        self._check_open()
        flight = self._intake.events(
            events, caller, self._next_seq(), self._clock.wall_ms(), self._clock.monotonic()
        )
        events = ()  # a parsed batch is large, and the disk takes a while: let the next one have its memory
        self.refused += len(flight.problems)
        self.duplicates += len(flight.duplicates)
        self.batches += 1
        if flight.count:
            self._reserve.spend(_WRITTEN_TIMES * len(flight.body))
            await self._fly(flight)
        if flight.awaits > self._state.overlay.front_seq:
            await self._await_twin(flight)
        return flight

    async def control(self, kind: int, text: bytes) -> int:
        """Store one record of configuration or namespaces; returns its number when it is in effect."""
        await self._reserve.make_way(self._journal)
        await self._room()
        flight = self._intake.control(kind, text, self._next_seq(), self._clock.wall_ms())
        await self._fly(flight)
        return flight.last

    def _next_seq(self) -> int:
        """The number of the next record; notices when numbers were taken back by a failed disk."""
        last = self._journal.last_seq
        if self._flights and self._flights[-1].last != last:
            self.drain()
            while self._flights:  # their appends failed: their publishers are about to be told
                self._withdraw(self._flights.pop())
        return last + 1

    async def _fly(self, flight: Flight) -> None:
        journal = self._journal
        if len(flight.body) > journal.spec.max_append_bytes:
            self._withdraw(flight)
            raise Invalid("payload too large", field="events")
        self._flights.append(flight)
        self._flying_bytes += len(flight.body)
        try:
            # A client that hangs up must not leave its events half taken; the journal bounds this wait.
            with trio.CancelScope(shield=True):
                await journal.append_joined(flight.body, flight.count)
        except FluxbeeError as error:
            self.failures += 1
            if error.code != _STALLED and flight in self._flights:
                self._flights.remove(flight)
                self._withdraw(flight)
            if isinstance(error, Unavailable):
                self.failure = error
            raise
        finally:
            self._flying_bytes -= len(flight.body)
            flight.body = b""
            self._space.unpark_all()
        self.failure = None
        self.drain()

    def _withdraw(self, flight: Flight) -> None:
        self._state.withdraw(flight, list(self._flights))

    async def _await_twin(self, flight: Flight) -> None:
        """An event of this request is on its way for another one: answer when that one is durable."""
        await self._journal.sync()
        self.drain()
        known = self._state.known
        for event_id, seq, _ in flight.duplicates:
            found = known.find(event_id, self._journal.last_seq + 1)
            if seq > self._state.overlay.front_seq or (found is not None and found[0] != seq):
                raise Unavailable("the first request with this eventId was not stored", code=WORLD_BUSY)

    # -- order -------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Make visible what is durable, in order."""
        durable, flights, state = self._journal.durable_seq, self._flights, self._state
        if not flights or flights[0].last > durable:
            return
        while flights and flights[0].last <= durable:
            flight = flights.popleft()
            state.apply(flight)
            if flight.changes or not flight.controls:
                self._meter.add(flight.count, flight.sources, self._clock.monotonic())
            if len(self._listeners) and (updates := state.updates(flight)):
                self._listeners.tell(updates)
        state.heads.age(self._journal.last_seq, state.overlay.front_seq)
        self._changed()

    @property
    def flying(self) -> int:
        """Appends on their way."""
        return len(self._flights)

    # -- bounds ------------------------------------------------------------------------------------------

    def _full(self) -> bool:
        options = self._state.options
        waiting = self._state.overlay.size_bytes + self._flying_bytes
        return waiting > options.overlay_bytes or self._flying_bytes > MAX_FLYING_BYTES

    def made_room(self) -> None:
        """The overlay shrank."""
        self._space.unpark_all()

    async def _room(self) -> None:
        self._check_open()
        if not self._full():
            return
        with trio.move_on_after(ROOM_WAIT_S):
            while self._full():
                await self._space.park()
        if self._full():
            self.busy += 1
            raise Busy("the world is behind with projecting its events", code=WORLD_BUSY, retry_after_s=1.0)
        self._check_open()

    def _check_open(self) -> None:
        """Nothing may come between this and the append: a restore relies on it."""
        if self.closed is not None:
            raise self.closed

    async def _count_quota(self, caller: Caller) -> None:
        """The first write to a namespace with a quota: see how many entities it has."""
        if not self._state.options.auth_enabled or caller.internal:
            return
        owner = self._state.registry.owner(caller.token)
        if owner is not None and owner.max_entities and owner.name not in self._state.tracked:
            held = await self.count(owner.name)
            self._state.tracked.setdefault(owner.name, held)

    async def count(self, namespace: str) -> int:
        """How many entities exist whose id starts with ``<namespace>/``."""
        listing = Listing(self._view, self._state.overlay, common_prefix(None, namespace))
        total = 0
        while rows := listing.rows(_COUNT_PAGE):
            total += len(rows)
            await trio.lowlevel.checkpoint()
        return total
