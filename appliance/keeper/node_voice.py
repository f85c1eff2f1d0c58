"""What the keeper says about nodes unasked: ends to those who follow, claims to the plane that routes.

An end is said until the follower's channel takes it; a claim must be taken before its process may start. A
new routing plane finds all claims in its channel before it runs, as many as that takes, and the rest soon
after. Bounded: one waiting end per follower and name, one waiting word on its claim per name.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from appliance.keeper.nodes_protocol import Claim, Claims, NodeEnded, NodeProcess, Unclaim, claim_batches
from appliance.keeper.protocol import encode
from appliance.wire.errors import Busy

__all__ = ["NodeVoice"]

_RETRY_S = 0.05


class NodeVoice:
    """Followers, claims, and what waits to be said.

    Args:
        routing: name of the routing plane.
        send: one try to send a packet to a plane; ``False`` when it was not taken.
        present: whether a plane has a process now.
    """

    def __init__(
        self, routing: str, send: Callable[[str, bytes], bool], present: Callable[[str], bool]
    ) -> None:
        self._routing = routing
        self._send = send
        self._present = present
        self._claims: dict[str, Claim] = {}
        self._unsaid: dict[str, Unclaim | Claims] = {}
        self._followers: dict[str, dict[str, NodeProcess]] = {}
        self._retry_at: float | None = None
        self.events_sent = 0
        self.claims_sent = 0

    # -- followers ---------------------------------------------------------------------------------

    def follow(self, plane: str) -> None:
        """Tell ``plane`` about every end from now on."""
        self._followers.setdefault(plane, {})

    def plane_ended(self, plane: str) -> None:
        """The process of a plane is gone, and its wishes with it."""
        self._followers.pop(plane, None)
        if plane == self._routing:
            self._unsaid.clear()

    def ended(self, process: NodeProcess, now: float) -> None:
        """A node process has ended."""
        for waiting in self._followers.values():
            waiting[process.name] = process
        self.tick(now, force=True)

    @property
    def events_waiting(self) -> int:
        """Ends that a follower has not taken yet."""
        return sum(map(len, self._followers.values()))

    # -- claims ------------------------------------------------------------------------------------

    def claim(self, claim: Claim) -> Claim | None:
        """Claim a name; the older claim on it is returned.

        Raises:
            Busy: the routing plane runs but does not take it.
        """
        if self._present(self._routing):
            if not self._send(self._routing, encode(Claims(claims=(claim,)))):
                raise Busy("the router does not take the claim on the name now")
            self.claims_sent += 1
        older = self._claims.get(claim.name)
        self._claims[claim.name] = claim
        self._unsaid.pop(claim.name, None)
        return older

    def take_back(self, name: str, older: Claim | None, now: float) -> None:
        """The claim on a name led to nothing: what was before is again."""
        if older is None:
            self.unclaim(name, now)
            return
        try:
            self.claim(older)
        except Busy:
            # The router keeps a claim that nobody can meet: the name stays closed, which is the safe side.
            self._claims[name] = older

    def shut(self, name: str, now: float) -> None:
        """The process that spoke for the name has ended: until the next one nobody does.

        Its session's number may soon be a stranger's, and its token was in its environment.
        """
        if name in self._claims:
            nobody = Claim(name=name, pid=0, token_sha256=secrets.token_hex(32))
            self._claims[name] = nobody
            self._say(name, Claims(claims=(nobody,)), now)

    def unclaim(self, name: str, now: float) -> None:
        """The name is nobody's any more."""
        if self._claims.pop(name, None) is not None:
            self._say(name, Unclaim(name=name), now)

    def _say(self, name: str, word: Unclaim | Claims, now: float) -> None:
        if self._present(self._routing):
            self._unsaid[name] = word
            self.tick(now, force=True)

    def introduce(self, send: Callable[[bytes], bool]) -> None:
        """Put all claims into the channel of a routing plane that is about to start."""
        for batch in claim_batches(self._claims.values()):
            if send(encode(batch)):
                self.claims_sent += len(batch.claims)
            else:
                self._unsaid |= {claim.name: Claims(claims=(claim,)) for claim in batch.claims}
                self._retry_at = 0.0

    # -- what waits --------------------------------------------------------------------------------

    def tick(self, now: float, *, force: bool = False) -> None:
        """Say what waits, if it is time to try again."""
        if not force and (self._retry_at is None or now < self._retry_at):
            return
        for name in list(self._unsaid):
            if not self._send(self._routing, encode(self._unsaid[name])):
                break
            del self._unsaid[name]
        for plane, waiting in self._followers.items():
            for name in list(waiting):
                if not self._send(plane, encode(NodeEnded(process=waiting[name]))):
                    break
                del waiting[name]
                self.events_sent += 1
        self._retry_at = now + _RETRY_S if self._unsaid or self.events_waiting else None

    def next_deadline(self) -> float | None:
        """When ``tick`` wants to try again; ``None`` when nothing waits."""
        return self._retry_at
