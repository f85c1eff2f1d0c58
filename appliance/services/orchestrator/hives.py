"""The registry of hives: list, get, add, remove (``spec/admin-api.md §B.2, §D.12``).

Adding checks in the order that operators' scripts assert, writes a pending record and lets a
:class:`Bootstrap` bring the worker in. An attempt that fails leaves no record, so that the operator may try
again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Literal

import msgspec
import trio

from appliance.supervise.hive_registry import HiveRecord, HiveRegistry, check_address, check_worker_id
from appliance.wire import verbs
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound, Unavailable, Unreachable

from .asked import text
from .history import History
from .house import Handler, House, Payload, Request

__all__ = [
    "AddHiveRequest",
    "Bootstrap",
    "HiveVerbs",
    "HivesPayload",
    "LocalHive",
    "RemoveHivePayload",
    "WanSettings",
    "no_bootstrap",
]

_CLEANUP_S: Final = 10.0
_YES: Final = ("1", "true", "yes", "on")
_NO: Final = ("0", "false", "no", "off")


class WanSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What decides whether a hive may be added: ``wan.listen`` and ``wan.authorized_hives``."""

    listen: str | None = None
    authorized_hives: tuple[str, ...] = ()


class LocalHive(msgspec.Struct, frozen=True, kw_only=True):
    """This hive among the others; it has no record."""

    hive_id: str
    role: str
    status: Literal["alive"] = "alive"
    is_local: Literal[True] = True


class HivesPayload(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /hives``; a record that does not read has its ``hive_id`` only."""

    status: Literal["ok"] = "ok"
    hives: tuple[HiveRecord | LocalHive | Mapping[str, object], ...]


class RemoveHivePayload(msgspec.Struct, frozen=True, kw_only=True):
    """``DELETE /hives/{hive}``."""

    status: Literal["ok"] = "ok"
    hive_id: str
    address: str
    remote_cleanup: Literal["socket_ok", "socket_timeout", "local_only"]
    remote_cleanup_via: Literal["socket", "local_only"]
    syncthing_peer_cleanup: str = "skipped_no_peer_device_id"
    syncthing_peer_unlinked: bool = False


class AddHiveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked request to add a hive; the probe's time-out in seconds."""

    hive_id: str
    address: str
    harden_ssh: bool
    restrict_ssh: bool
    require_dist_sync: bool
    dist_sync_probe_timeout_secs: int


Bootstrap = Callable[[AddHiveRequest], Awaitable[Payload]]
"""Brings a worker in; returns what the answer says about it, raises a FluxbeeError with the stage's code."""


async def no_bootstrap(request: AddHiveRequest) -> Payload:
    """There is neither a link to that hive nor a key for it (decision H-7: no passwords)."""
    raise Unreachable(
        f"{request.hive_id} at {request.address} has no link to this hive, and there is no key for it",
        code="SSH_KEY_FAILED",
        remedy="Start the worker with this hive as its uplink; it joins by itself.",
    )


class HiveVerbs:
    """Handlers of the four actions.

    Args:
        house: what all verbs share.
        history: where additions are recorded.
        wan: what may be added.
        bootstrap: brings a worker in.
    """

    def __init__(
        self, house: House, history: History, wan: WanSettings, bootstrap: Bootstrap = no_bootstrap
    ) -> None:
        self._house = house
        self._history = history
        self._wan = wan
        self._bootstrap = bootstrap
        self.registry = HiveRegistry(house.paths.hives)
        self.handlers: Mapping[str, Handler] = {
            "list_hives": self.list_hives,
            "get_hive": self.get_hive,
            "add_hive": self.add_hive,
            "remove_hive": self.remove_hive,
        }

    async def list_hives(self, request: Request, source: str) -> Payload:
        """All records and this hive, by id."""
        found = await trio.to_thread.run_sync(self._list, limiter=self._house.files)
        return dict(msgspec.to_builtins(HivesPayload(hives=tuple(found))))

    def _list(self) -> list[HiveRecord | LocalHive | Mapping[str, object]]:
        found: dict[str, HiveRecord | LocalHive | Mapping[str, object]] = {}
        for hive in self.registry.ids():
            try:
                found[hive] = self.registry.find(hive)
            except FluxbeeError:
                found[hive] = {"hive_id": hive}
        found.setdefault(self._house.hive, self._local())
        return [found[hive] for hive in sorted(found)]

    def _local(self) -> LocalHive:
        return LocalHive(hive_id=self._house.hive, role=self._house.role)

    async def get_hive(self, request: Request, source: str) -> Payload:
        """One record; this hive's is made up (decision H-3)."""
        hive = _required(request, "hive_id")
        try:
            record: HiveRecord | LocalHive = await self._find(hive)
        except NotFound:
            if hive != self._house.hive:
                raise
            record = self._local()
        return {"status": "ok", "hive": msgspec.to_builtins(record)}

    async def _find(self, hive: str) -> HiveRecord:
        return await trio.to_thread.run_sync(self.registry.find, hive, limiter=self._house.files)

    # --- adding ----------------------------------------------------------------------------------------

    async def add_hive(self, request: Request, source: str) -> Payload:
        """Register a worker and bring it in."""
        self._check_mother("added")
        hive, address = _required(request, "hive_id"), _required(request, "address")
        told = {"hive_id": hive, "address": address}
        try:
            check = partial(self._checked, request, hive, address)
            wanted = await trio.to_thread.run_sync(check, limiter=self._house.files)
        except FluxbeeError as error:
            error.details = {**told, **error.details}
            raise
        started_ms = self._house.clock.wall_ms()
        record = HiveRecord(hive_id=hive, address=address, created_at=str(started_ms), status="pending")
        try:
            await self._write(record)
            answer = await self._bootstrap(wanted)
            await self._write(msgspec.structs.replace(record, status="connected"))
        except FluxbeeError as error:
            await self._forget(hive)
            await self._recorded(hive, started_ms, error)
            error.details = {**told, **error.details}
            raise
        except BaseException:
            await self._forget(hive)
            raise
        await self._recorded(hive, started_ms, None)
        return {"status": "ok", **told, **answer}

    def _checked(self, request: Request, hive: str, address: str) -> AddHiveRequest:
        """The checks of §D.12, in their order."""
        if self.registry.has(hive) or hive == self._house.hive != "motherbee":
            raise Conflict(f"hive {hive} is registered already", code="HIVE_EXISTS")
        check_worker_id(hive)
        check_address(address)
        if self._wan.listen is None:
            raise Unavailable(
                "this hive takes no links: wan.listen is not set",
                code="MISSING_WAN_LISTEN",
                remedy="Set wan.listen in hive.yaml and restart.",
            )
        if self._wan.authorized_hives and hive not in self._wan.authorized_hives:
            raise Conflict(
                f"hive {hive} is not in wan.authorized_hives",
                code="WAN_NOT_AUTHORIZED",
                remedy="Add it to that list, or clear the list.",
            )
        harden = _flag(request, "harden_ssh", default=False)
        return AddHiveRequest(
            hive_id=hive,
            address=address,
            harden_ssh=harden,
            restrict_ssh=_flag(request, "restrict_ssh", default=harden),
            require_dist_sync=_flag(request, "require_dist_sync", default=False),
            dist_sync_probe_timeout_secs=_probe_timeout(request),
        )

    async def _write(self, record: HiveRecord) -> None:
        await trio.to_thread.run_sync(self.registry.write, record, limiter=self._house.files)

    async def _forget(self, hive: str) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.registry.remove, hive, limiter=self._house.files)

    async def _recorded(self, hive: str, started_ms: int, error: FluxbeeError | None) -> None:
        await self._history.record_deployment(
            "core",
            trigger="add_hive",
            started_at_ms=started_ms,
            result="ok" if error is None else "error",
            target=hive,
            reason=None if error is None else error.code,
        )

    # --- removing --------------------------------------------------------------------------------------

    async def remove_hive(self, request: Request, source: str) -> Payload:
        """Let a worker go; one that does not answer is forgotten all the same."""
        self._check_mother("removed")
        hive = _required(request, "hive_id")
        if hive == self._house.hive:
            raise Invalid("the local hive cannot be removed", field="hive_id")
        record = await self._find(hive)
        cleanup: Literal["socket_ok", "socket_timeout", "local_only"]
        try:
            answer = await self._house.ask(
                f"SY.orchestrator@{hive}", verbs.REMOVE_HIVE_CLEANUP, {"hive_id": hive}, timeout_s=_CLEANUP_S
            )
            cleanup = "socket_ok" if answer.get("status") == "ok" else "local_only"
        except FluxbeeError as error:
            cleanup = "socket_timeout" if error.code == "TIMEOUT" else "local_only"
        await trio.to_thread.run_sync(self.registry.remove, hive, limiter=self._house.files)
        payload = RemoveHivePayload(
            hive_id=hive,
            address=record.address,
            remote_cleanup=cleanup,
            remote_cleanup_via="socket" if cleanup == "socket_ok" else "local_only",
        )
        return dict(msgspec.to_builtins(payload))

    def _check_mother(self, act: str) -> None:
        if not self._house.is_mother:
            raise Conflict(f"hives are {act} on the motherbee", code="NOT_PRIMARY")


def _required(request: Request, key: str) -> str:
    value = text(request, key)
    if value is None or not value.strip():
        raise Invalid(f"missing {key}", field=key)
    return value.strip()


def _flag(request: Request, key: str, *, default: bool) -> bool:
    value = request.get(key)
    if value is None:
        return default
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _YES or word in _NO:
            return word in _YES
    if not isinstance(value, bool):
        raise Invalid(f"{key}: expected true or false", field=key)
    return value


def _probe_timeout(request: Request) -> int:
    value = request.get("dist_sync_probe_timeout_secs", request.get("dist_sync_timeout_secs"))
    if value is None:
        return 45
    if type(value) is not int or value < 0:
        raise Invalid("dist_sync_probe_timeout_secs: expected seconds", field="dist_sync_probe_timeout_secs")
    return max(5, min(value, 600))
