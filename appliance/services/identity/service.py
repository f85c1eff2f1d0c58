"""SY.identity: the directory, kept in a journal and shown in region ``identity``, and its messages.

A change is answered when journal *and* region have it (``design.md §2``), one after the other. A change that
the journal refuses is refused and nothing moves; one that only the region refuses is stored, is answered
``DB_NOT_READY``, and takes effect when the region lets it. While either is behind, changes are refused and
reading goes on from memory. Who changed what is in the journal.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self

import msgspec
import trio

from appliance.identity import Decision, Directory, Registry, RegistryLimits, Transaction
from appliance.identity.rules import MUTATING
from appliance.sdk import Node, system_reply
from appliance.store.journal_types import JournalStatistics
from appliance.store.reserve import NO_RESERVE, Reserve
from appliance.system.log import get_logger
from appliance.system.paths import Paths
from appliance.wire import verbs
from appliance.wire.envelope import Message
from appliance.wire.errors import Conflict, FluxbeeError, Unavailable
from appliance.wire.identity import TenantStatus

from ..control_regions import ControlRegions
from ..health import JournalState, journal_states
from .desk import IdentityDesk, Payload, failed
from .keeping import JOURNAL, IdentityKeeping
from .region import IdentityRegion

__all__ = ["DB_NOT_READY", "IdentityService", "IdentitySettings", "IdentityStatistics"]

DB_NOT_READY: Final = "DB_NOT_READY"
_RETRY_S: Final = 2.0

log = get_logger("identity")


class IdentitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service needs of ``hive.yaml`` (section ``identity``)."""

    is_primary: bool
    frontdesk: str
    default_tenant: str = "fluxbee"
    auto_tenant: bool = True
    frontdesk_tenant_status: TenantStatus = "pending"
    limits: RegistryLimits = RegistryLimits()


class IdentityStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures since the start, and what the directory holds."""

    changes: int
    unchanged: int
    refused: int
    not_ready: int
    reads: int
    answers_lost: int
    ilks: int
    tenants: int
    sequence: int


class IdentityService:
    """Run :meth:`serve` with its node and :meth:`upkeep` inside :meth:`opened`.

    Args:
        hive: hive id.
        paths: where the journal lies.
        settings: rules and limits.
        regions: environment ``control``.
        reserve: of the disk; a change may use what it frees.
    """

    def __init__(
        self,
        hive: str,
        paths: Paths,
        *,
        settings: IdentitySettings,
        regions: ControlRegions,
        reserve: Reserve = NO_RESERVE,
    ) -> None:
        self._settings = settings
        self._reserve = reserve
        self._trouble = trio.Event()
        self._lock = trio.Lock()  # messages and upkeep both bring journal and region up to date
        self.directory = Directory()
        self._keeping = IdentityKeeping(
            self.directory, IdentityRegion(regions, self._note_trouble), paths.journals / JOURNAL
        )
        self._registry = Registry(self.directory, limits=settings.limits, auto_tenant=settings.auto_tenant)
        self._desk = IdentityDesk(
            hive,
            is_primary=settings.is_primary,
            directory=self.directory,
            registry=self._registry,
            frontdesk=settings.frontdesk,
            frontdesk_status=settings.frontdesk_tenant_status,
        )
        self._changes = self._unchanged = self._refused = self._not_ready = 0
        self._reads = self._answers_lost = 0

    # --- opening ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Self]:
        """Open the journal, find the directory in force and show it.

        A medium that takes no writes is no error: what is stored is in force, and changes are refused.

        Raises:
            Conflict: another process has journal or region open.
            Unavailable: the journal cannot be read.
        """
        async with self._keeping.opened():
            try:
                await self._bring_up()
            except Conflict:
                raise
            except FluxbeeError as error:
                log.error(
                    "identity_not_in_force",
                    code="IDENTITY_NOT_IN_FORCE",
                    error=str(error),
                    remedy=error.remedy,
                )
                self._note_trouble()
            yield self

    async def _bring_up(self) -> None:
        """Journal and region up to date, and a new directory begun; errors of :class:`IdentityKeeping`."""
        await self._keeping.catch_up()
        if self._settings.is_primary:
            now_ms = _now_ms()
            ops = self._registry.begin(self._settings.default_tenant, now_ms)
            if ops:
                await self._keeping.commit(Transaction(at_ms=now_ms, action="START", ops=ops))

    # --- serving ---------------------------------------------------------------------------------------

    async def serve(self, node: Node) -> None:
        """Answer messages until the node is closed."""
        async for message in node.receiver:
            if not self._desk.concerns(message):
                continue
            async with self._lock:
                payload = await self._answer(message)
            if message.routing.src:
                await self._send(node, message, payload)

    async def _send(self, node: Node, message: Message, payload: Payload) -> None:
        told = verbs.PONG if message.meta.msg == verbs.PING else None
        try:
            await node.send(system_reply(message, payload, verb=told, src=node.uuid))
        except FluxbeeError as error:
            self._answers_lost += 1
            log.warning(
                "answer_not_sent", code="ANSWER_NOT_SENT", to=message.source_l2_name, error=str(error)
            )

    async def _answer(self, message: Message) -> Payload:
        refusal = self._desk.refusal(message)
        if refusal is not None:
            self._refused += 1
            return refusal
        if message.meta.msg not in MUTATING:
            self._reads += 1
            return self._desk.read(message, trouble=self.trouble or self._keeping.figures().failure)
        await self._keeping.make_way(self._reserve)
        if self.is_behind and not await self._try_to_bring_up():
            return self._db_not_ready(Unavailable(self.trouble or "the directory is behind"))
        try:
            decision = self._desk.decide(message, _now_ms())
        except FluxbeeError as error:
            self._refused += 1
            return failed(error)
        return await self._carry_out(message, decision)

    async def _carry_out(self, message: Message, decision: Decision) -> Payload:
        if not decision.ops:
            self._unchanged += 1
            return {"status": "ok", **decision.answer}
        transaction = Transaction(
            at_ms=_now_ms(),
            action=message.meta.msg or "",
            actor=message.source_l2_name,
            trace_id=message.routing.trace_id,
            reason=decision.reason,
            ops=decision.ops,
        )
        before = self._keeping.sequence
        try:
            await self._keeping.commit(transaction)
        except FluxbeeError as error:
            stored = self._keeping.sequence > before
            log.error("identity_not_stored", code="IDENTITY_NOT_STORED", error=str(error), in_journal=stored)
            self._note_trouble()
            return self._db_not_ready(error, stored=stored)
        self._changes += 1
        log.info(
            "identity_changed",
            action=transaction.action,
            by=transaction.actor,
            reason=transaction.reason,
            sequence=self._keeping.sequence,
        )
        return {"status": "ok", **decision.answer}

    def _db_not_ready(self, error: FluxbeeError, *, stored: bool = False) -> Payload:
        self._not_ready += 1
        text = f"stored, and in force when this is mended: {error.message}" if stored else error.message
        shown = Unavailable(text, code=DB_NOT_READY)
        return failed(shown, node_name=self._desk.name, state=self._desk.state(text))

    # --- upkeep ----------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """Why changes are refused now; ``None`` when they are not."""
        if self._keeping.trouble is not None:
            return self._keeping.trouble
        is_begun = self.directory.meta is not None or not self._settings.is_primary
        return None if is_begun else "the directory has not begun: its journal takes no writes"

    @property
    def is_behind(self) -> bool:
        """Whether journal or region still owe something."""
        return self.trouble is not None

    def _note_trouble(self) -> None:
        self._trouble.set()

    async def _try_to_bring_up(self) -> bool:
        try:
            await self._bring_up()
        except FluxbeeError:
            return False  # health says why
        log.info("identity_in_force", sequence=self._keeping.sequence)
        return True

    async def upkeep(self) -> None:
        """Bring up what a refusing medium left behind as soon as it takes writes, until cancelled."""
        while True:
            await self._trouble.wait()
            self._trouble = trio.Event()
            while self.is_behind and self._keeping.can_mend:
                async with self._lock:
                    done = await self._try_to_bring_up()
                await trio.sleep(0 if done else _RETRY_S)

    def journals(self) -> Sequence[JournalState]:
        """For the health report: the journal, and the region when it is behind."""
        return journal_states(self._keeping.figures(), "identity", self._keeping.region_failure)

    def journal_statistics(self) -> JournalStatistics:
        """Figures of the journal."""
        return self._keeping.figures()

    def statistics(self) -> IdentityStatistics:
        """A snapshot."""
        return IdentityStatistics(
            changes=self._changes,
            unchanged=self._unchanged,
            refused=self._refused,
            not_ready=self._not_ready,
            reads=self._reads,
            answers_lost=self._answers_lost,
            ilks=self.directory.live_ilks(),
            tenants=len(self.directory.tenants),
            sequence=self._keeping.sequence,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
