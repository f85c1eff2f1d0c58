"""What SY.identity answers: a message and the directory in, a payload or a decision out. Sans-IO.

Who may ask is checked first, then whether this hive may change the directory, then what is asked
(``spec/identity-and-knowledge.md §2.1``). Unknown verbs and broadcasts are nobody's business here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from appliance.identity import Decision, Directory, Registry, may_call
from appliance.identity.rules import MUTATING, OPEN, relayed
from appliance.wire import verbs
from appliance.wire.envelope import Message
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound, Refused
from appliance.wire.frames import MAX_FRAME_BYTES
from appliance.wire.identity import (
    IDENTITY_NODE,
    PRIMARY_IDENTITY,
    IlkGet,
    IlkList,
    IlkRegister,
    IlkUpdate,
    TenantApprove,
    TenantCreate,
    TenantStatus,
    ilk_id,
    parse_request,
)
from appliance.wire.names import full_name

__all__ = ["ANSWERED", "IdentityDesk", "Payload", "failed"]

Payload = dict[str, object]

ANSWERED: Final = MUTATING | OPEN | {verbs.ILK_LIST, verbs.ILK_GET}
"""Verbs that get an answer."""

_PAGE_BYTES: Final = MAX_FRAME_BYTES - 4096
"""Of the entries of one ILK_LIST answer; the envelope takes the rest."""
_ORCHESTRATOR: Final = "SY.orchestrator@"


def failed(error: FluxbeeError, **more: object) -> Payload:
    """The payload that tells of ``error``."""
    field = {} if error.field is None else {"field": error.field}
    return {"status": "error", "error_code": error.code, "message": error.message, **field, **more}


class IdentityDesk:
    """Decides about messages to the identity service.

    Args:
        hive: own hive id.
        is_primary: whether this hive's directory is the one that changes.
        directory: what is in force.
        registry: the rules of changing it.
        frontdesk: full name of the configured front desk.
        frontdesk_status: status of the tenants that a front desk creates.
    """

    def __init__(
        self,
        hive: str,
        *,
        is_primary: bool,
        directory: Directory,
        registry: Registry,
        frontdesk: str,
        frontdesk_status: TenantStatus = "pending",
    ) -> None:
        self.hive = hive
        self.name = full_name(IDENTITY_NODE, hive)
        self.is_primary = is_primary
        self._directory = directory
        self._registry = registry
        self._frontdesk = frontdesk
        self._frontdesk_status: TenantStatus = frontdesk_status
        self._changes: Mapping[str, Callable[[Message, int], Decision]] = {
            verbs.ILK_REGISTER: self._register,
            verbs.ILK_UPDATE: self._update,
            verbs.TNT_CREATE: self._create_tenant,
            verbs.TNT_APPROVE: self._approve_tenant,
        }

    def concerns(self, message: Message) -> bool:
        """Whether ``message`` is answered at all."""
        asked = message.meta.type == verbs.SYSTEM and message.meta.msg in ANSWERED
        return asked and message.routing.dst != verbs.BROADCAST

    def refusal(self, message: Message) -> Payload | None:
        """Why ``message`` is not dealt with here; ``None`` when it is."""
        verb = message.meta.msg or ""
        caller = message.source_l2_name
        if verb not in OPEN and not may_call(verb, caller, own_name=self.name, frontdesk=self._frontdesk):
            error = Refused(
                f"{caller or 'a node without a name'} may not ask for {verb}", code="UNAUTHORIZED_REGISTRAR"
            )
            return failed(error, action=verb, src_uuid=message.routing.src, src_l2_name=caller)
        if verb in MUTATING and not self.is_primary:
            moved = Conflict(f"the directory is changed by {PRIMARY_IDENTITY}", code="NOT_PRIMARY")
            return failed(moved, action=verb, replica_hive_id=self.hive, primary=PRIMARY_IDENTITY)
        return None

    # --- reading ---------------------------------------------------------------------------------------

    def read(self, message: Message, *, trouble: str | None) -> Payload:
        """The answer to a verb that changes nothing.

        Args:
            message: the request.
            trouble: why changes are refused now.
        """
        verb = message.meta.msg
        try:
            if verb == verbs.ILK_LIST:
                return self._list(parse_request(message.payload, IlkList))
            if verb == verbs.ILK_GET:
                return self._get(parse_request(message.payload, IlkGet))
        except FluxbeeError as error:
            return failed(error)
        if verb == verbs.IDENTITY_METRICS:
            return {"status": "ok", "metrics": msgspec.to_builtins(self._directory.figures())}
        return self._status(verb == verbs.STATUS, trouble)

    def _list(self, request: IlkList) -> Payload:
        ids = sorted(self._directory.ilks)
        start = 0 if request.after is None else bisect_right(ids, ilk_id(request.after, "after"))
        if request.limit is not None and request.limit < 1:
            raise Invalid("limit is 1 or more", field="limit")
        entries: list[msgspec.Raw] = []
        size_bytes = 0
        for wanted in ids[start:][: request.limit]:
            entry = msgspec.json.encode(self._directory.summary(self._directory.ilks[wanted]))
            size_bytes += len(entry) + 1
            if size_bytes > _PAGE_BYTES:
                break
            entries.append(msgspec.Raw(entry))
        end = start + len(entries)
        answer: Payload = {"status": "ok", "count": len(entries), "ilks": entries}
        if end < len(ids):
            answer |= {"total": len(ids), "next_after": ids[end - 1]}
        return answer

    def _get(self, request: IlkGet) -> Payload:
        wanted = ilk_id(request.ilk_id)
        found = self._directory.ilks.get(wanted)
        if found is None:
            raise NotFound(f"{wanted} does not exist", field="ilk_id")
        return {
            "status": "ok",
            "ilk_id": wanted,
            "queried_ilk_id": wanted,
            "canonical_ilk_id": wanted,
            "alias_resolved": False,
            "queried_alias": None,
            "merged_aliases": [],
            "ilk": found,
            "tenant": self._directory.tenants.get(found.tenant_id),
        }

    def state(self, trouble: str | None) -> str:
        """One word for what the service can do (§2.9)."""
        if not self.is_primary:
            return "replica_non_primary"
        return "configured" if trouble is None else "db_not_ready"

    def _status(self, full: bool, trouble: str | None) -> Payload:
        database: Payload = {
            "mode": "embedded",
            "source": "local_file" if self.is_primary else "replica_non_primary",
            "configured": True,
            "ready": trouble is None,
        }
        answer: Payload = {
            "status": "ok",
            "ok": trouble is None,
            "node_name": self.name,
            "state": self.state(trouble),
            "database": database,
        }
        if full:
            database["last_error"] = trouble
            answer |= {
                "role": "primary" if self.is_primary else "replica",
                "schema_version": 1,
                "config_version": 0,
            }
        return answer

    # --- changing --------------------------------------------------------------------------------------

    def decide(self, message: Message, now_ms: int) -> Decision:
        """What a changing verb comes to; errors as the methods of :class:`Registry`."""
        return self._changes[message.meta.msg or ""](message, now_ms)

    def _register(self, message: Message, now_ms: int) -> Decision:
        request = parse_request(message.payload, IlkRegister)
        caller = relayed(message.source_l2_name or "")
        if request.auto_tenant and not caller.startswith(_ORCHESTRATOR):
            raise Invalid(f"auto_tenant is not for {caller}", field="auto_tenant")
        return self._registry.register(request, now_ms)

    def _update(self, message: Message, now_ms: int) -> Decision:
        return self._registry.update(parse_request(message.payload, IlkUpdate), now_ms)

    def _create_tenant(self, message: Message, now_ms: int) -> Decision:
        request = parse_request(message.payload, TenantCreate)
        by_admin = (message.source_l2_name or "").startswith("SY.admin@")
        status = request.status if by_admin else self._frontdesk_status
        return self._registry.create_tenant(request, status, now_ms)

    def _approve_tenant(self, message: Message, now_ms: int) -> Decision:
        return self._registry.approve_tenant(parse_request(message.payload, TenantApprove), now_ms)
