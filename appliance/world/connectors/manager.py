"""What feeds a world by itself: stored sources, connectors with a credential, and the box's own entity.

One runner per source; a change takes effect at once (the reference needs up to a minute, CN-10). Connectors
without a credential do nothing and ask nobody. Doors call the methods from the same trio loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from appliance.system.clock import Clock, SystemClock
from appliance.system.paths import Paths
from appliance.wire.errors import Busy, FluxbeeError, Invalid, NotFound, Unavailable, Unreachable
from appliance.world.engine import WorldEngine

from .addresses import ReachPolicy
from .book import ConnectorBook, Secrets
from .boxpoll import SYSINFO, BoxPoller
from .fetch import Fetcher
from .generic import GenericPoller, checked_source, source_tokens
from .github import GithubPoller
from .named import NamedTap, TapPlaces, TapTotals
from .oauth import PROVIDERS, OAuthClientOptions, Tokens, exchange_form, read_tokens, refresh_form
from .publishing import Publisher
from .records import (
    KNOWN,
    ConnectorOptions,
    ConnectorStatistics,
    GenericSource,
    NamedSource,
    NewSource,
    NewTap,
    SourceKind,
    SourceReport,
)
from .runner import Poller, Runner
from .sysinfo import BoxReader
from .tapchild import TapLimits
from .taplist import TapRow, checked_tap, tap_rows, tap_secrets
from .vault import KeyRing

__all__ = ["Connectors"]

_REFRESH_AHEAD_MS: Final = 90_000
_TAPS_AT_ONCE: Final = 2
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


class Connectors:
    """See the module; run :meth:`run` beside the engine.

    Args:
        engine: the world.
        options: settings.
        ring: keys of credentials.
        directory: of the journal.
        disk: a path on the medium of which sysinfo tells.
        clients: this box at OAuth providers.
        clock: the system's by default.
        fetcher: asks sources; made from the options by default.
        box: looks at the box.
        tap_places: where named taps have their files; below ``directory`` by default.
    """

    def __init__(
        self,
        engine: WorldEngine,
        options: ConnectorOptions,
        ring: KeyRing,
        *,
        directory: Path,
        disk: Path,
        clients: Mapping[str, OAuthClientOptions] | None = None,
        clock: Clock | None = None,
        fetcher: Fetcher | None = None,
        box: BoxReader | None = None,
        tap_places: TapPlaces | None = None,
    ) -> None:
        self.options = options
        self.clients = dict(clients or {})
        self._clock = clock or SystemClock()
        self._book = ConnectorBook(directory, ring, self._clock)
        self._fetcher = fetcher or Fetcher(
            ReachPolicy(options.reach, options.allowed_hosts),
            timeout_s=options.timeout_s,
            answer_bytes=options.answer_bytes,
            at_once=options.at_once,
        )
        self._publisher = Publisher(engine)
        self._box = box or BoxReader(disk)
        self._runners: dict[tuple[str, str], Runner] = {}
        self._at_once = trio.CapacityLimiter(options.at_once)
        self._tap_places = tap_places or TapPlaces(states=directory / "taps", runs=directory / "tap-runs")
        self._taps_at_once = trio.CapacityLimiter(_TAPS_AT_ONCE)
        self._tap_totals = TapTotals()
        self._files = trio.CapacityLimiter(1)
        self._nursery: trio.Nursery | None = None
        self._past_polls = self._past_failures = 0

    @classmethod
    def at(
        cls,
        paths: Paths,
        engine: WorldEngine,
        options: ConnectorOptions,
        ring: KeyRing,
        clients: Mapping[str, OAuthClientOptions],
    ) -> Connectors:
        """Those of a hive: ``<lib>/journals/world.connectors``."""
        directory = paths.journals / "world.connectors"
        places = TapPlaces(states=paths.world_tap_states, runs=paths.world_tap_runs)
        return cls(
            engine, options, ring, directory=directory, disk=paths.lib, clients=clients, tap_places=places
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open what is stored and ask until cancelled; started means that changes are taken.

        Raises:
            Conflict, Damaged, Unavailable: the journal cannot be opened.
        """
        async with self._book.opened(), trio.open_nursery() as nursery:
            await trio.to_thread.run_sync(self._tap_places.clear, limiter=self._files)
            self._nursery = nursery
            try:
                for source in self._book.sources.values():
                    self._start_source(source)
                for tap in self._book.named.values():
                    self._start_tap(tap)
                for owner, connector in list(self._book.credentials):
                    self._start_connector(owner, connector)
                if self.options.sysinfo_enabled:
                    poller = BoxPoller(self.options, self._box, self._publisher, self._clock, self._files)
                    self._start((SYSINFO, ""), poller, self.options.sysinfo_interval_s, own=True)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def _start(
        self,
        key: tuple[str, str],
        poller: Poller,
        interval_s: float,
        *,
        own: bool = False,
        at_once: trio.CapacityLimiter | None = None,
    ) -> None:
        """``own``: looks at this box only, so it waits for no source and is not switched off with them."""
        self._stop(key)
        if self._nursery is None or not (own or self.options.enabled):
            return
        limiter = trio.CapacityLimiter(1) if own else at_once or self._at_once
        runner = Runner(poller, interval_s, self._clock, limiter)
        self._runners[key] = runner
        self._nursery.start_soon(runner.run)

    def _stop(self, key: tuple[str, str]) -> None:
        runner = self._runners.pop(key, None)
        if runner is not None:
            runner.scope.cancel()
            self._past_polls += runner.schedule.polls
            self._past_failures += runner.failed_polls

    def _demand_running(self) -> None:
        if self._nursery is None:
            raise Unavailable("connectors are being stopped")

    # --- sources ---------------------------------------------------------------------------------------

    def reports(self, owner: str) -> list[SourceReport]:
        """CN-20: the built-in connector as ``owner`` has it, then generic and named sources, each by age."""
        github = (owner, "github")
        book, on = self._book, self.options.enabled
        rows = [self._report("github", "builtin", github, github in book.credentials)]
        rows += [self._report(one.name, "generic", ("generic", key), on) for key, one in book.sources.items()]
        rows += [self._report(one.tap_name, "named", ("named", key), on) for key, one in book.named.items()]
        return rows

    def _report(self, name: str, kind: SourceKind, key: tuple[str, str], enabled: bool) -> SourceReport:
        source_id = None if kind == "builtin" else key[1]
        runner = self._runners.get(key)
        if runner is None:
            return SourceReport(name=name, type=kind, enabled=enabled, status="stopped", source_id=source_id)
        return SourceReport(
            name=name,
            type=kind,
            enabled=enabled,
            status=runner.status,
            source_id=source_id,
            last_started=runner.stamp(runner.polled_ms if kind == "named" else runner.started_ms),
            last_success=runner.stamp(runner.succeeded_ms),
            last_error=runner.schedule.error,
        )

    async def add_source(self, wanted: NewSource) -> str:
        """CN-21; returns the id of the new source, which is asked at once.

        Raises:
            Invalid, Refused: as :func:`.generic.checked_source`.
            Busy: there are as many as there may be.
            Unavailable: it could not be stored.
        """
        self._demand_running()
        self._demand_place()
        source = checked_source(wanted, self._fetcher.policy, self._clock.wall_ms())
        await self._book.add_source(source, source_tokens(wanted))
        self._start_source(source)
        return source.source_id

    async def remove_source(self, source_id: str) -> bool:
        """CN-22: forget a source; a poll under way ends. Whether there was one."""
        self._demand_running()
        removed = await self._book.remove_source(source_id)
        self._stop(("generic", source_id))
        return removed

    def _demand_place(self) -> None:
        if len(self._book.sources) + len(self._book.named) >= self.options.max_sources:
            raise Busy(f"there are {self.options.max_sources} sources already (world.connectors.max_sources)")

    def _start_source(self, source: GenericSource) -> None:
        secrets = partial(self._secrets_of, source.source_id)
        poller = GenericPoller(source, self._fetcher, self._publisher, secrets, self._clock.monotonic)
        self._start(("generic", source.source_id), poller, source.poll_interval_s)

    def _secrets_of(self, connector: str, owner: str) -> Secrets | None:
        return self._book.secrets(owner, connector)

    # --- named taps ------------------------------------------------------------------------------------

    def taps(self) -> list[TapRow]:
        """CN-26: the taps that may be run; none unless the setting ``world.taps`` lists some."""
        return tap_rows(self.options.taps)

    async def add_tap(self, wanted: NewTap) -> str:
        """CN-23; returns the id of the new source, which runs at once.

        Raises:
            Refused, Invalid: as :func:`.named.checked_tap` and :func:`.named.tap_secrets`.
            Busy: there are as many sources as there may be.
            Unavailable: it could not be stored.
        """
        self._demand_running()
        source = checked_tap(wanted, self.options.taps, self._clock.wall_ms())
        secrets = tap_secrets(wanted)
        self._demand_place()
        await self._book.add_source(source, secrets)
        self._start_tap(source)
        return source.source_id

    async def remove_tap(self, source_id: str) -> bool:
        """CN-24: forget a source and where it was; a run under way is killed. Whether there was one."""
        self._demand_running()
        if source_id not in self._book.named:
            return False
        await self._book.remove_source(source_id)
        self._stop(("named", source_id))
        await trio.to_thread.run_sync(self._tap_places.forget, source_id, limiter=self._files)
        return True

    def sync_tap(self, source_id: str) -> None:
        """CN-25: run now; when it runs already, once more right after that.

        Raises:
            NotFound: there is no such source.
            Unavailable: sources are switched off.
        """
        self._demand_running()
        if source_id not in self._book.named:
            raise NotFound(f"Named source {source_id} not found")
        runner = self._runners.get(("named", source_id))
        if runner is None:
            raise Unavailable("sources are switched off (world.connectors.enabled)")
        runner.hurry()

    def _start_tap(self, source: NamedSource) -> None:
        limits = TapLimits(timeout_s=self.options.tap_timeout_s, memory_bytes=self.options.tap_memory_bytes)
        secrets = partial(self._secrets_of, source.source_id)
        tools = (self._publisher, secrets, self._files, self._tap_totals)
        poller = NamedTap(source, self.options.taps, self._tap_places, limits, *tools)
        key = ("named", source.source_id)
        self._start(key, poller, source.poll_interval_s, at_once=self._taps_at_once)

    # --- credentials -----------------------------------------------------------------------------------

    def has_token(self, owner: str, connector: str) -> bool:
        """Whether a credential is stored that opens.

        Raises:
            Damaged: one is stored that does not.
        """
        return self._book.secrets(owner, connector) is not None

    def runner(self, owner: str, connector: str) -> Runner | None:
        """Who asks for ``owner``, if anybody."""
        return self._runners.get((owner, connector))

    async def store_token(self, owner: str, connector: str, secrets: Secrets) -> None:
        """EP-62: store or replace a credential; its connector is asked at once.

        Raises:
            Invalid: a token that no header takes.
            Unavailable, Busy: it could not be stored.
        """
        self._demand_running()
        if any(not "!" <= letter <= "~" for letter in secrets.access) or len(secrets.access) > 8192:
            raise Invalid("the token must be printable ASCII without spaces", field="token")
        await self._book.store(owner, connector, secrets)
        self._start_connector(owner, connector)

    async def drop_token(self, owner: str, connector: str) -> bool:
        """EP-63: forget a credential; whether there was one."""
        self._demand_running()
        removed = await self._book.remove(owner, connector)
        self._stop((owner, connector))
        return removed

    def _start_connector(self, owner: str, connector: str) -> None:
        if connector != "github":
            return  # the others only keep credentials (CN-19)
        token = partial(self._fresh_token, owner, connector)
        poller = GithubPoller(
            self.options.github_url,
            self._fetcher,
            self._publisher,
            token,
            lambda: self._clock.wall_ms() / 1000,
        )
        self._start((owner, connector), poller, KNOWN[connector])

    async def _fresh_token(self, owner: str, connector: str) -> str:
        """The token to use now; one that ends soon is refreshed first (CN-12)."""
        secrets = self._book.secrets(owner, connector)
        if secrets is None:
            raise NotFound(f"No credentials found for connector '{connector}'")
        expires = secrets.expires_at_ms
        if expires is None or secrets.refresh is None or expires > self._clock.wall_ms() + _REFRESH_AHEAD_MS:
            return secrets.access
        client = self.clients.get(connector, OAuthClientOptions())
        try:
            tokens = await self._ask_tokens(connector, client, refresh_form(client, secrets.refresh))
        except FluxbeeError as error:
            raise Unreachable(f"Token refresh failed: {error.message}") from error
        fresh = self._kept(tokens, secrets.refresh)
        await self._book.store(owner, connector, fresh)
        return fresh.access

    # --- OAuth -----------------------------------------------------------------------------------------

    async def exchange(self, connector: str, *, code: str, redirect_uri: str, verifier: str) -> Secrets:
        """Turn the code of a callback into tokens (EP-71).

        Raises:
            Invalid: the provider said no.
            Unreachable, Refused: it did not answer, or may not be asked.
        """
        client = self.clients[connector]
        form = exchange_form(client, code=code, redirect_uri=redirect_uri, verifier=verifier)
        return self._kept(await self._ask_tokens(connector, client, form), None)

    async def _ask_tokens(self, connector: str, client: OAuthClientOptions, form: bytes) -> Tokens:
        address = client.token_url or PROVIDERS[connector].token_url
        answer = await self._fetcher.fetch(address, method="POST", headers=_FORM, body=form)
        return read_tokens(answer.status, answer.body)

    def _kept(self, tokens: Tokens, refresh: str | None) -> Secrets:
        """As it is stored; a refresh token that was not renewed stays."""
        expires = None
        if tokens.expires_in is not None:
            expires = self._clock.wall_ms() + int(min(max(tokens.expires_in, 0), 10 * 365 * 86_400) * 1000)
        return Secrets(tokens.access_token, tokens.refresh_token or refresh, expires)

    def statistics(self) -> ConnectorStatistics:
        """Counts since the start."""
        fetched = self._fetcher.statistics()
        runners = list(self._runners.values())
        return ConnectorStatistics(
            sources=len(self._book.sources) + len(self._book.named),
            credentials=len(self._book.credentials),
            running=sum(one.status == "running" for one in runners),
            failing=sum(one.status == "error" for one in runners),
            polls=self._past_polls + sum(one.schedule.polls for one in runners),
            failed_polls=self._past_failures + sum(one.failed_polls for one in runners),
            events=self._publisher.events,
            requests=fetched.requests,
            refused_addresses=fetched.refused,
            read_bytes=fetched.read_bytes,
            undecodable=self._book.undecodable,
            resealed=self._book.resealed,
            journal_bytes=0 if self._nursery is None else self._book.journal_bytes(),
            **vars(self._tap_totals),
        )
