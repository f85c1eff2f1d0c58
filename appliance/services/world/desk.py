"""What a message may ask of the world, and what the answer holds. No node, no queue.

Every payload is checked here. With auth on, a writer shows the token of a namespace in ``token``, or its node
was given a namespace in ``world.node_namespaces`` and writes into nothing else; the name compared is the one
that the router stamped. Reading is open, as at the door (``spec/flux-state.md`` HT-30).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from appliance.wire import verbs
from appliance.wire.envelope import Message
from appliance.wire.errors import FluxbeeError, Invalid, Refused
from appliance.wire.names import glob_matcher
from appliance.world import INTERNAL, Caller, WorldEngine
from appliance.world.together import Outcome, Wanted

__all__ = ["WorldDesk", "failure_payload", "report_payload"]

_PAGE: Final = 500
_Id = Annotated[str, msgspec.Meta(max_length=1024)]
_Limit = Annotated[int, msgspec.Meta(ge=1, le=_PAGE)]


class _Publish(msgspec.Struct):
    events: list[msgspec.Raw]
    token: str | None = None


class _OwnedPayload(msgspec.Struct, frozen=True):
    entity_id: str = ""


class _Owned(msgspec.Struct):
    """As much of an event as says whose it is."""

    payload: _OwnedPayload = _OwnedPayload()


class _Get(msgspec.Struct):
    entity_id: _Id


class _List(msgspec.Struct, kw_only=True):
    prefix: str | None = None
    namespace: str | None = None
    after: str | None = None
    limit: _Limit = _PAGE


class _History(msgspec.Struct, kw_only=True):
    entity_id: _Id
    since_ms: int | None = None
    until_ms: int | None = None
    before_seq: int | None = None
    limit: _Limit = 100


class _Delete(msgspec.Struct):
    entity_id: _Id
    token: str | None = None


_owned = msgspec.json.Decoder(_Owned)


class WorldDesk:
    """Decides for :class:`.service.WorldService`.

    Args:
        engine: the world.
        auth_enabled: whether writes need a credential.
        node_namespaces: ``pattern=namespace`` as in the settings; the first that fits counts.
    """

    def __init__(self, engine: WorldEngine, *, auth_enabled: bool, node_namespaces: Sequence[str]) -> None:
        self._engine = engine
        self._auth = auth_enabled
        rules = [text.rpartition("=") for text in node_namespaces]
        self._rules = [(glob_matcher(pattern), namespace) for pattern, _, namespace in rules]

    def wanted(self, message: Message) -> Wanted:
        """What a ``WORLD_PUBLISH`` wants published, and as whom.

        Raises:
            Invalid: the payload.
            Refused: the node may not write there.
        """
        request = message.payload_as(_Publish)
        if not request.events:
            raise Invalid("events must hold at least one event", field="events")
        caller = self._caller(message, request.token, request.events)
        return Wanted(caller, [bytes(event) for event in request.events])

    def _caller(self, message: Message, token: str | None, events: Sequence[msgspec.Raw]) -> Caller:
        if token is not None or not self._auth:
            return Caller(token=token)
        namespace = self._namespace_of(message.source_l2_name)
        if namespace is None:
            raise Refused(
                "this node has no namespace, and the message no token",
                code="UNAUTHORIZED",
                remedy="Send `token` in the payload, or name the node in world.node_namespaces.",
            )
        for event in events:
            try:
                entity_id = _owned.decode(event).payload.entity_id
            except (msgspec.MsgspecError, RecursionError) as error:
                raise Invalid(f"events: {error}", field="events") from error
            _check_owner(entity_id, namespace)
        return INTERNAL

    def _namespace_of(self, name: str | None) -> str | None:
        if name is None:
            return None
        return next((namespace for fits, namespace in self._rules if fits(name)), None)

    async def answer(self, message: Message) -> dict[str, object]:
        """The payload of the answer to any verb but ``WORLD_PUBLISH``.

        Raises:
            Invalid: the payload, or no such verb.
            FluxbeeError: of the engine.
        """
        verb = message.meta.msg
        if verb == verbs.WORLD_GET:
            found = self._engine.entity(message.payload_as(_Get).entity_id)
            return {"status": "ok", "entity": None if found is None else msgspec.Raw(found)}
        if verb == verbs.WORLD_LIST:
            return self._list(message.payload_as(_List))
        if verb == verbs.WORLD_HISTORY:
            return await self._history(message.payload_as(_History))
        if verb == verbs.WORLD_DELETE:
            return await self._delete(message)
        raise Invalid(f"SY.world has no {verb}", code="UNKNOWN_VERB")

    def _list(self, wanted: _List) -> dict[str, object]:
        listing = self._engine.listing(prefix=wanted.prefix, namespace=wanted.namespace, after=wanted.after)
        return {"status": "ok", "entities": [msgspec.Raw(text) for text in listing.page(wanted.limit)]}

    async def _history(self, wanted: _History) -> dict[str, object]:
        page = await self._engine.history(
            wanted.entity_id,
            since_ms=wanted.since_ms,
            until_ms=wanted.until_ms,
            before_seq=wanted.before_seq,
            limit=wanted.limit,
        )
        events = [msgspec.Raw(text) for text in page.events]
        return {
            "status": "ok",
            "events": events,
            "next_before_seq": page.next_before_seq,
            "complete": page.complete,
        }

    async def _delete(self, message: Message) -> dict[str, object]:
        request = message.payload_as(_Delete)
        caller = self._caller(message, request.token, ())
        if caller.internal:
            _check_owner(request.entity_id, self._namespace_of(message.source_l2_name) or "")
        receipt = await self._engine.delete(request.entity_id, caller)
        return {"status": "ok", "eventId": receipt.event_id, "seq": receipt.seq}


def _check_owner(entity_id: str, namespace: str) -> None:
    if not entity_id.startswith(f"{namespace}/"):
        raise Refused(f"this node may write into namespace {namespace!r} only", code="FORBIDDEN")


def report_payload(outcome: Outcome) -> dict[str, object]:
    """The payload of the answer to a ``WORLD_PUBLISH``."""
    if isinstance(outcome, FluxbeeError):
        return failure_payload(outcome)
    return {"status": "ok", **msgspec.structs.asdict(outcome)}


def failure_payload(error: FluxbeeError) -> dict[str, object]:
    """The payload that reports ``error``."""
    return {"status": "error", "error_code": error.code, "error_detail": error.message}
