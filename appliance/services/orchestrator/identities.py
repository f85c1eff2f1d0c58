"""Identities of nodes: asked of SY.identity at the motherbee before a node is started.

The same node name has the same identity over every respawn. What the service answered is kept in
``identity-node-ilk-map.json`` (``spec/admin-api.md §D.1, §D.4``), which is a note for operators and a
proposal for the next time; the identity service decides.
"""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from appliance.store.files import durable_replace
from appliance.supervise.instance import pretty_json
from appliance.supervise.names import NodeName
from appliance.system.log import get_logger
from appliance.wire import verbs
from appliance.wire.errors import FluxbeeError, Invalid, Refused, Unavailable
from appliance.wire.identity import (
    PRIMARY_IDENTITY,
    GivenChannel,
    IlkRegister,
    IlkUpdate,
    ilk_id,
    new_ilk_id,
)
from appliance.wire.names import hive_of

from .asked import text, texts
from .house import House, Payload, Request

__all__ = ["Identities"]

log = get_logger("orchestrator")

_TIMEOUT_S: Final = 8.0
"""Two questions and a launch fit into the 30 s that an admin request has."""

_UPDATE_KEYS: Final = (
    "add_roles",
    "remove_roles",
    "add_capabilities",
    "remove_capabilities",
    "add_channels",
)


class _Map(msgspec.Struct):
    nodes: dict[str, str] = {}


class Identities:
    """Registers nodes; one per orchestrator."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._map: dict[str, str] | None = None
        self._writing = trio.Lock()

    async def register(
        self, name: NodeName, request: Request, *, tenant: str | None, through_admin: bool
    ) -> tuple[str, Payload]:
        """Register ``name`` and, when the request asks for it, update the identity.

        Args:
            name: the node.
            request: the spawn.
            tenant: canonical tenant id; without one it is refused.
            through_admin: the spawn came through the admin API, so a new tenant may be made.

        Returns:
            the ILK id, and the ``identity`` block of the answer.

        Raises:
            FluxbeeError: ``IDENTITY_REGISTER_FAILED`` or ``IDENTITY_UPDATE_FAILED``.
        """
        if tenant is None:
            raise Refused(
                f"tenant_id is missing for {name.full}",
                code="IDENTITY_REGISTER_FAILED",
                remedy="Give tenant_id in the request, or set orchestrator.default_tenant_id.",
            )
        change = _change_of(request)
        ilk_type = "agent" if name.kind == "AI" else "system"
        body = IlkRegister(
            ilk_id=await self._proposal(name, request),
            ilk_type=ilk_type,
            tenant_id=tenant,
            identification={"node_name": name.full},
            roles=texts(request, "roles"),
            capabilities=texts(request, "capabilities"),
            auto_tenant=through_admin,
        )
        answer = await self._ask(verbs.ILK_REGISTER, body, "IDENTITY_REGISTER_FAILED")
        given = answer.get("ilk_id")
        ilk = given if isinstance(given, str) else body.ilk_id
        await self._remember(name.full, ilk)
        block: Payload = {
            "requested_hive": name.hive,
            "identity_primary_hive_id": hive_of(PRIMARY_IDENTITY),
            "identity_target": PRIMARY_IDENTITY,
            "register": {"status": "ok", "ilk_id": ilk, "ilk_type": ilk_type, "target": PRIMARY_IDENTITY},
            "update": await self._update(ilk, change),
        }
        return ilk, block

    async def _update(self, ilk: str, change: IlkUpdate | None) -> Payload:
        if change is None:
            return {"status": "skipped", "reason": "no_changes"}
        body = msgspec.structs.replace(change, ilk_id=ilk)
        await self._ask(verbs.ILK_UPDATE, body, "IDENTITY_UPDATE_FAILED")
        return {"status": "ok", "ilk_id": ilk, "target": PRIMARY_IDENTITY}

    async def _ask(self, verb: str, body: msgspec.Struct, failure: str) -> Payload:
        try:
            answer = await self._house.ask(PRIMARY_IDENTITY, verb, body, timeout_s=_TIMEOUT_S)
        except FluxbeeError as error:
            raise Refused(f"{verb}: {error.message}", code=failure, remedy=error.remedy) from error
        if answer.get("status") != "ok":
            code = answer.get("error_code") or "no status"
            why = answer.get("message") or answer.get("error_detail") or ""
            raise Refused(
                f"{PRIMARY_IDENTITY} refused {verb}: {code} {why}".rstrip(),
                code=failure,
                details={"identity_error_code": code},
            )
        return answer

    async def _proposal(self, name: NodeName, request: Request) -> str:
        asked = text(request, "ilk_id")
        if asked is not None:
            return ilk_id(asked)
        try:
            known = await self._known()
        except OSError as error:
            raise Unavailable(
                f"{self._house.paths.identity_map}: {error.strerror}; the node's own identity is not known",
                code="IDENTITY_REGISTER_FAILED",
            ) from error
        return known.get(name.full) or new_ilk_id()

    # --- the map ---------------------------------------------------------------------------------------

    async def _known(self) -> dict[str, str]:
        """The map, read once; who asks meanwhile waits, so that there is one.

        Raises:
            OSError: it is there and does not read now; written, it would lose what it holds.
        """
        async with self._writing:
            if self._map is None:
                self._map = await trio.to_thread.run_sync(self._read, limiter=self._house.files)
            return self._map

    def _read(self) -> dict[str, str]:
        path = self._house.paths.identity_map
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Map).nodes
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            aside = path.with_suffix(".damaged")
            log.warning(
                "identity_map_unreadable", code="IDENTITY_MAP_UNREADABLE", error=str(error), kept=str(aside)
            )
            path.replace(aside)
            return {}

    async def _remember(self, name: str, ilk: str) -> None:
        try:
            known = await self._known()
        except OSError as error:
            log.warning("identity_map_not_written", code="IDENTITY_MAP_NOT_WRITTEN", error=str(error))
            return
        if known.get(name) == ilk:
            return
        known[name] = ilk
        async with self._writing:
            data = pretty_json({"nodes": dict(sorted(known.items()))})
            try:
                await trio.to_thread.run_sync(self._write, data, limiter=self._house.files)
            except (FluxbeeError, OSError) as error:
                log.warning("identity_map_not_written", code="IDENTITY_MAP_NOT_WRITTEN", error=str(error))

    def _write(self, data: bytes) -> None:
        path = self._house.paths.identity_map
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        durable_replace(path, data, 0o600)


def _change_of(request: Request) -> IlkUpdate | None:
    """What the request wants changed of the identity; read before anything is registered.

    Raises:
        Invalid: a key has another shape.
    """
    if not any(request.get(key) for key in _UPDATE_KEYS):
        return None
    try:
        channels = msgspec.convert(request.get("add_channels") or [], tuple[GivenChannel, ...])
    except msgspec.ValidationError as error:
        raise Invalid(f"add_channels: {error}", field="add_channels") from error
    return IlkUpdate(
        ilk_id="",
        add_channels=channels,
        add_roles=texts(request, "add_roles"),
        remove_roles=texts(request, "remove_roles"),
        add_capabilities=texts(request, "add_capabilities"),
        remove_capabilities=texts(request, "remove_capabilities"),
        change_reason=text(request, "change_reason"),
    )
