"""Who listens to the world, and what each listener is to be sent. Sans-IO.

A change is encoded once and a tick's frames are joined once, whoever gets them. A listener that takes its
frames has a queue of a few shared pieces. One whose queue is full lags: its next frames come from the table
of last values (``feed_recent``), so it misses intermediate values and nothing else, and is told that it did
(``spec/flux-state.md`` WS-33). One ordered feed per listener: no deletion overtakes an update (WS-23).
What is written when, and who is cut because it takes nothing, is the door's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from .feed_frames import frames_of, lagged_frame, text_frame
from .feed_recent import Recent
from .updates import Update

__all__ = ["ALL", "Feed", "FeedLimits", "FeedStatistics", "Subscriber"]

ALL = "*"
"""The subscription that means every entity."""


class FeedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the feed.

    Attributes:
        queue_bytes: a listener with more than this waiting lags.
        piece_bytes: about how much a lagging listener is given at a time.
        tick_changes: more changes than this in one tick are coalesced for everybody.
        recent_bytes: the table of last values; over it the slowest listeners are given up.
        subscriptions: entities that one listener may name.
    """

    queue_bytes: int = 256 << 10
    piece_bytes: int = 128 << 10
    tick_changes: int = 4096
    recent_bytes: int = 48 << 20
    subscriptions: int = 10_000


class FeedStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the start, and how it stands now.

    ``frames`` were encoded, ``pieces`` handed out; ``lags`` is how often a listener fell behind, ``lagging``
    how many are behind now, ``given_up`` how many lagged more than the table holds.
    """

    listeners: int
    lagging: int
    recent_entities: int
    recent_bytes: int
    changes: int
    frames: int
    pieces: int
    lags: int
    coalesced_ticks: int
    given_up: int


class _Lag:
    """How far a listener is behind: it had everything up to ``start`` and was told up to ``cursor``."""

    __slots__ = ("cursor", "held", "start", "told")

    def __init__(self, start: int, *, held: bool) -> None:
        self.start = self.cursor = start
        self.held = held
        self.told = held  # a listener that asked for a snapshot does not lag, it waits


class Subscriber:
    """One listener; made by :meth:`Feed.attach`. ``given_up`` says that it must start over (close 1013)."""

    __slots__ = ("given_up", "ids", "lag", "named", "queue", "queued_bytes")

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.named = False  # whether it ever subscribed: until then it gets everything (WS-14)
        self.queue: deque[bytes] = deque()
        self.queued_bytes = 0
        self.lag: _Lag | None = None
        self.given_up = False

    @property
    def wants_all(self) -> bool:
        """Whether every entity's updates are for this listener."""
        return not self.named or ALL in self.ids

    def put(self, frames: bytes) -> None:
        """Queue ``frames`` behind what waits."""
        self.queue.append(frames)
        self.queued_bytes += len(frames)


class Feed:
    """All listeners; see the module."""

    def __init__(self, limits: FeedLimits | None = None) -> None:
        self.limits = limits or FeedLimits()
        self._recent = Recent()
        self._everything: set[Subscriber] = set()
        self._selective: set[Subscriber] = set()
        self._by_entity: dict[str, set[Subscriber]] = {}
        self._lagging: set[Subscriber] = set()
        self._tick: list[Update] = []
        self._head = 0  # sequence and arrival of the last change that was handed out
        self._at_ms = 0
        self._changes = self._frames = self._pieces = self._lags = self._coalesced = self._given_up = 0

    @property
    def has_listeners(self) -> bool:
        """Whether anybody is there; changes need not be reported otherwise."""
        return bool(self._everything or self._selective)

    @property
    def waiting(self) -> bool:
        """Whether changes wait for :meth:`flush`."""
        return bool(self._tick)

    # --- listeners -------------------------------------------------------------------------------------

    def attach(self) -> Subscriber:
        """A new listener, of everything (WS-11)."""
        subscriber = Subscriber()
        self._everything.add(subscriber)
        return subscriber

    def detach(self, subscriber: Subscriber) -> None:
        """The listener is gone; doing so twice is no mistake."""
        self._unlist(subscriber)
        self._end_lag(subscriber)

    def subscribe(self, subscriber: Subscriber, entity_id: str) -> bool:
        """Add an entity, or ``*``; ``False`` when the listener names too many already."""
        if entity_id not in subscriber.ids and len(subscriber.ids) >= self.limits.subscriptions:
            return False
        subscriber.named = True
        if entity_id in subscriber.ids:
            return True
        if entity_id == ALL or subscriber in self._everything:
            self._unlist(subscriber)
            subscriber.ids.add(entity_id)
            self._list(subscriber)
        else:
            subscriber.ids.add(entity_id)
            self._by_entity.setdefault(entity_id, set()).add(subscriber)
        return True

    def unsubscribe(self, subscriber: Subscriber, entity_id: str) -> None:
        """Remove an entity, or ``*``; an emptied set means nothing (WS-14, ``design.md §5``)."""
        if entity_id in subscriber.ids:
            self._unlist(subscriber)
            subscriber.ids.discard(entity_id)
            self._list(subscriber)

    def _list(self, subscriber: Subscriber) -> None:
        if subscriber.wants_all:
            self._everything.add(subscriber)
            return
        self._selective.add(subscriber)
        for entity_id in subscriber.ids:
            self._by_entity.setdefault(entity_id, set()).add(subscriber)

    def _unlist(self, subscriber: Subscriber) -> None:
        if subscriber in self._everything:
            self._everything.discard(subscriber)
            return
        self._selective.discard(subscriber)
        for entity_id in subscriber.ids:
            listeners = self._by_entity.get(entity_id)
            if listeners is not None:
                listeners.discard(subscriber)
                if not listeners:
                    del self._by_entity[entity_id]

    # --- changes ---------------------------------------------------------------------------------------

    def publish(self, updates: Sequence[Update]) -> None:
        """Take in ``updates``, in the order of their sequences; :meth:`flush` hands them out."""
        if self.has_listeners:
            self._tick.extend(updates)
        elif updates:
            self._head = updates[-1].seq

    def flush(self) -> list[Subscriber]:
        """Hand out what :meth:`publish` took in; returns those who have something to :meth:`take`."""
        tick, self._tick = self._tick, []
        if not tick:
            return []
        self._changes += len(tick)
        ready: list[Subscriber] = []
        late: list[Subscriber] = []
        if len(tick) > self.limits.tick_changes:
            self._coalesced += 1
            late = [one for one in (*self._everything, *self._selective) if one.lag is None]
        else:
            self._hand_out(tick, ready, late)
        for subscriber in late:
            self._begin_lag(subscriber, held=False)
        if self._lagging:
            self._record(tick)
            ready += [one for one in self._lagging if self.has_some(one)]
        self._head, self._at_ms = tick[-1].seq, tick[-1].at_ms
        return ready

    def _hand_out(self, tick: list[Update], ready: list[Subscriber], late: list[Subscriber]) -> None:
        encoded: dict[int, bytes] = {}
        if self._everything:
            blob = b"".join([self._encoded(tick, number, encoded) for number in range(len(tick))])
            for subscriber in self._everything:
                self._offer(subscriber, blob, ready, late)
        if not self._selective:
            return
        wanted: dict[Subscriber, list[int]] = {}
        deleted: list[int] = []
        for number, change in enumerate(tick):
            if change.properties is None:
                deleted.append(number)
                continue
            for subscriber in self._by_entity.get(change.entity_id, ()):
                wanted.setdefault(subscriber, []).append(number)
        ends = b"".join([self._encoded(tick, number, encoded) for number in deleted])
        if ends:  # to every listener, whatever it subscribed to (WS-21)
            for subscriber in self._selective.difference(wanted):
                self._offer(subscriber, ends, ready, late)
        for subscriber, numbers in wanted.items():
            order = sorted((*numbers, *deleted)) if deleted else numbers
            blob = b"".join([self._encoded(tick, number, encoded) for number in order])
            self._offer(subscriber, blob, ready, late)

    def _offer(
        self, subscriber: Subscriber, blob: bytes, ready: list[Subscriber], late: list[Subscriber]
    ) -> None:
        if subscriber.lag is not None:
            return
        if subscriber.queued_bytes > self.limits.queue_bytes:
            late.append(subscriber)
            return
        subscriber.put(blob)
        ready.append(subscriber)

    def _encoded(self, tick: list[Update], number: int, encoded: dict[int, bytes]) -> bytes:
        frames = encoded.get(number)
        if frames is None:
            frames = encoded[number] = frames_of(tick[number])
            self._frames += len(tick[number].frames)
        return frames

    def broadcast(self, payload: bytes) -> Sequence[Subscriber]:
        """Send ``payload`` to every listener but those who lag: the next one comes soon (metrics)."""
        frame = text_frame(payload)
        ready = [one for one in (*self._everything, *self._selective) if one.lag is None]
        for subscriber in ready:
            subscriber.put(frame)
        return ready

    # --- lagging ---------------------------------------------------------------------------------------

    def hold(self, subscriber: Subscriber) -> int:
        """Keep back updates until :meth:`release`; for a snapshot that is to come first.

        Returns the sequence up to which the listener has everything: the snapshot must hold at least that.
        """
        self._begin_lag(subscriber, held=True)
        return self._head

    def release(self, subscriber: Subscriber) -> None:
        """Let updates flow again."""
        if subscriber.lag is not None:
            subscriber.lag.held = False

    def has_some(self, subscriber: Subscriber) -> bool:
        """Whether :meth:`take` has something for the listener."""
        lag = subscriber.lag
        return bool(subscriber.queue) or (lag is not None and not lag.held) or subscriber.given_up

    def take(self, subscriber: Subscriber) -> bytes:
        """The next frames for a listener that can take some; empty when there are none now."""
        if subscriber.queue:
            self._pieces += 1
            queue = subscriber.queue
            frames = queue[0] if len(queue) == 1 else b"".join(queue)
            queue.clear()
            subscriber.queued_bytes = 0
            return frames
        lag = subscriber.lag
        if lag is None or lag.held or subscriber.given_up:
            return b""
        wanted = None if subscriber.wants_all else subscriber.ids
        piece = self._recent.piece(lag.start, lag.cursor, wanted, budget_bytes=self.limits.piece_bytes)
        frames = piece.frames
        if not lag.told:
            lag.told = True
            frames = lagged_frame(self._head - lag.start, at_ms=self._at_ms) + frames
        lag.cursor = piece.cursor
        if lag.cursor >= self._recent.last_seq:
            self._end_lag(subscriber)
        self._pieces += bool(frames)
        return frames

    def _begin_lag(self, subscriber: Subscriber, *, held: bool) -> None:
        subscriber.lag = _Lag(self._head, held=held)
        self._lagging.add(subscriber)
        self._lags += not held

    def _end_lag(self, subscriber: Subscriber) -> None:
        subscriber.lag = None
        self._lagging.discard(subscriber)
        if not self._lagging:
            self._recent.clear()

    def _record(self, tick: list[Update]) -> None:
        self._recent.record(tick)
        if self._recent.size_bytes <= self.limits.recent_bytes:
            return
        starts = sorted({one.lag.start for one in self._lagging if one.lag is not None})
        self._recent.forget(starts[0])
        # Further than just below the bound: walking the table at every tick would cost more than it saves.
        while starts and self._recent.size_bytes > self.limits.recent_bytes * 3 // 4:
            self._give_up(starts.pop(0))
            if starts:
                self._recent.forget(starts[0])
            else:
                self._recent.clear()

    def _give_up(self, start: int) -> None:
        for subscriber in [one for one in self._lagging if one.lag is not None and one.lag.start == start]:
            subscriber.given_up = True
            self._given_up += 1
            self._lagging.discard(subscriber)

    def statistics(self) -> FeedStatistics:
        """Counts since the start, and how it stands now."""
        return FeedStatistics(
            listeners=len(self._everything) + len(self._selective),
            lagging=len(self._lagging),
            recent_entities=len(self._recent),
            recent_bytes=self._recent.size_bytes,
            changes=self._changes,
            frames=self._frames,
            pieces=self._pieces,
            lags=self._lags,
            coalesced_ticks=self._coalesced,
            given_up=self._given_up,
        )
