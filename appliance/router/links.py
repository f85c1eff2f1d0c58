"""Who is connected, who waits for whom, and what the shell must act on. Sans-IO.

The lowest layer of the engine: connections come and go, queues are marked, senders pause and go on, things
are counted. Invariant: a connection that ends leaves every table on every path, and whoever waited for it
goes on.
"""

from __future__ import annotations

from collections import Counter

from ..wire.frames import HEADER, MAX_FRAME_BYTES
from .config import EngineSettings
from .connection import Connection, Peer, State
from .fib import Fib
from .greeting import Greeter
from .replies import Replies
from .taps import Taps

__all__ = ["Links"]

_unpack = HEADER.unpack_from


class Links:
    """State that all layers of the engine share; ``now`` and ``wall_ms`` are those of the current turn."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.fib = Fib(static_override=settings.static_override)
        self.replies = Replies(settings.router_uuid, settings.router_name)
        self.counts: Counter[str] = Counter()
        self.now = 0.0
        self.wall_ms = 0
        self.connections: set[Connection] = set()
        # What the shell must act on after a turn.
        self.dirty: list[Connection] = []
        self.doomed: list[Connection] = []
        self.resumed: list[Connection] = []
        self.changes: list[tuple[str, Connection]] = []
        self.paused: set[Connection] = set()
        self.taps = Taps()
        self.greeter = Greeter(self)
        self._generation = 0

    def accept(self, peer: Peer) -> Connection:
        """A socket was accepted; it has ``hello_timeout_s`` to say HELLO."""
        self._generation += 1
        connection = Connection(self._generation, peer, self.settings.queues, self.now)
        self.connections.add(connection)
        self.greeter.waiting.add(connection)
        return connection

    def hang_up(self, connection: Connection) -> None:
        """``connection`` takes nothing any more; what it had sent before counts, so it is read to its end.

        Nobody reaches it from now on: its senders are told so, and a standby takes over.
        """
        if connection.deaf:
            return
        connection.deaf = True
        self.counts["hung_up"] += 1
        if connection.state is State.READY:
            self.fib.remove(connection)
            self.changes.append(("down", connection))
        self.taps.remove(connection)
        self._give_up_queue(connection)

    def close(self, connection: Connection, reason: str) -> None:
        """Take ``connection`` out of every table, now and on every exit path; the shell closes its socket."""
        if connection.closing is not None:
            return
        connection.closing = reason
        connection.blocked = True
        self.counts[f"closed.{reason}"] += 1
        self._leave_unread(connection.rest)
        connection.rest = b""
        if connection.state is State.READY and not connection.deaf:
            self.fib.remove(connection)
            self.changes.append(("down", connection))
        connection.state = State.CLOSED
        self.connections.discard(connection)
        self.greeter.forget(connection)
        self.taps.remove(connection)
        if connection.paused_on is not None:
            connection.paused_on.outbox.waiting.discard(connection)
            connection.paused_on = None
        self.paused.discard(connection)
        self._give_up_queue(connection)
        self.doomed.append(connection)

    def _give_up_queue(self, connection: Connection) -> None:
        lost = connection.outbox.abandon()
        if lost:
            self.counts["lost_unsent"] += lost
        for sender in list(connection.outbox.waiting):
            self.resume(sender)

    def _leave_unread(self, rest: bytes) -> None:
        """Count the whole frames that a connection had sent when it was closed and that nobody looked at."""
        position, left = 0, 0
        while len(rest) - position >= 4:
            position += 4 + _unpack(rest, position)[0]
            left += position <= len(rest)
        if left:
            self.counts["lost_unread"] += left

    # --- pausing senders -------------------------------------------------------------------------------

    def pause(self, sender: Connection, recipient: Connection) -> None:
        """Stop reading ``sender`` until ``recipient`` drained, stalled, or ``pause_s`` passed."""
        if sender.paused_on is None and sender is not recipient:
            sender.paused_on = recipient
            sender.blocked = True
            sender.pause_until = self.now + recipient.outbox.limits.pause_s
            recipient.outbox.waiting.add(sender)
            self.paused.add(sender)
            self.counts["sender_paused"] += 1

    def resume(self, sender: Connection) -> None:
        """Read ``sender`` again; the shell processes its ``rest`` first."""
        if sender.paused_on is not None:
            sender.paused_on.outbox.waiting.discard(sender)
            sender.paused_on = None
            sender.blocked = False
            self.paused.discard(sender)
            self.resumed.append(sender)

    def drained(self, connection: Connection, sent_bytes: int) -> None:
        """``sent_bytes`` of the connection's queue went out; senders that waited for it may go on."""
        outbox = connection.outbox
        outbox.advance(sent_bytes, self.now)
        if outbox.waiting and outbox.roomy():
            for sender in list(outbox.waiting):
                self.resume(sender)

    def expire(self) -> None:
        """Act on what time alone changes: silent newcomers, pauses that are over, taps that ran out."""
        self.greeter.expire()
        for sender in list(self.paused):
            recipient = sender.paused_on
            if recipient is not None and (
                self.now >= sender.pause_until or recipient.outbox.stalled(self.now)
            ):
                self.resume(sender)
        self.taps.expire(self.now)

    def next_deadline(self) -> float:
        """When :meth:`expire` has work at the latest, monotonic seconds; infinity when never."""
        due = self.greeter.next_deadline()
        for sender in self.paused:
            if sender.paused_on is not None:
                outbox = sender.paused_on.outbox
                due = min(due, sender.pause_until, outbox.progress_at + outbox.limits.stall_s + 0.001)
        return due

    # --- telling ---------------------------------------------------------------------------------------

    def mark(self, connection: Connection) -> None:
        """Something waits for ``connection``; the shell writes it at the end of the turn."""
        if not connection.dirty:
            if not connection.outbox.queued_frames:
                connection.outbox.progress_at = self.now  # the fast lane relies on it for who is marked
            connection.dirty = True
            self.dirty.append(connection)

    def reject(self, source: Connection, reason: str) -> None:
        """Count a frame that is neither delivered nor answered."""
        source.rejected += 1
        self.counts[reason] += 1

    def tell(self, connection: Connection, body: bytes) -> None:
        """Queue a router-made frame in the control lane."""
        if len(body) > MAX_FRAME_BYTES:
            # It repeats a destination and a trace that filled the sender's own frame.
            self.counts["oversize_out"] += 1
        elif not connection.deaf and connection.outbox.put_control(body):
            self.mark(connection)
        else:
            self.counts["control_dropped"] += 1
