"""Namespaces and the runtime configuration over HTTP (``spec/flux-state.md §2.5, §2.8``)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import trio

from appliance.wire.errors import NotFound
from appliance.world import INTERNAL, RateLimited, WorldEngine
from appliance.world.entities import entity_id, rfc3339

from .call import Call, Reply, json_reply
from .credentials import Brake, Credentials

__all__ = ["Administration"]

_AUTH_OFF: Final = "Namespace registration not available (auth disabled)"
_NO_NAMESPACE: Final = "Namespace not found"
_PAGE: Final = 1000
_U64 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _NewName(msgspec.Struct):
    name: str


class _ConfigChange(msgspec.Struct, kw_only=True):
    rate_limit_enabled: bool | None = None
    rate_limit_per_namespace_per_minute: _U64 | None = None
    body_size_limit_single_bytes: _U64 | None = None
    body_size_limit_batch_bytes: _U64 | None = None


class _Namespace(msgspec.Struct, kw_only=True, rename="camel"):
    namespace_id: str
    name: str
    created_at: str
    entity_count: int


_new_name = msgspec.json.Decoder(_NewName)
_config_change = msgspec.json.Decoder(_ConfigChange)


class Administration:
    """The endpoints that belong to the administrator.

    Args:
        engine: the world.
        credentials: who is who.
        open_registration: whether anybody may create a namespace.
    """

    def __init__(self, engine: WorldEngine, credentials: Credentials, *, open_registration: bool) -> None:
        self._engine = engine
        self._credentials = credentials
        self._open = open_registration
        self._births = Brake(per_minute=60, burst=60)

    def _demand(self, call: Call, refusal: str) -> None:
        self._credentials.demand_admin(call.scope, trio.current_time(), refusal)

    def _demand_auth_on(self) -> None:
        if not self._credentials.auth_enabled:
            raise NotFound(_AUTH_OFF)

    async def create(self, call: Call) -> Reply:
        """EP-50."""
        self._demand_auth_on()
        if not self._open:
            self._demand(call, "Admin token required")
        if not self._births.take(call.address, trio.current_time()):
            raise RateLimited("too many namespaces at once", retry_after_s=60)
        wanted = await call.json(_new_name)
        return json_reply(await self._engine.create_namespace(wanted.name))

    async def show(self, name: str) -> Reply:
        """EP-51."""
        self._demand_auth_on()
        found = self._engine.namespace(name)
        if found is None:
            raise NotFound(_NO_NAMESPACE)
        return json_reply(
            _Namespace(
                namespace_id=found.namespace_id,
                name=found.name,
                created_at=rfc3339(found.created_at_ms).decode(),
                entity_count=await self._engine.entity_count(name),
            )
        )

    async def rotate(self, call: Call, name: str) -> Reply:
        """A new token for a namespace (DF-24)."""
        self._demand(call, "Admin token required")
        self._demand_auth_on()
        return json_reply(await self._engine.rotate_namespace(name))

    async def remove(self, call: Call, name: str) -> Reply:
        """EP-52; with ``?entities=delete`` the entities go too, so that the next owner finds none (DF-24)."""
        self._demand(call, "Admin token required")
        query = call.query(("entities",))
        if self._engine.namespace(name) is None:
            raise NotFound(_NO_NAMESPACE)
        if query.get("entities") == "delete":
            await self._engine.rotate_namespace(name)  # nobody fills it again while it is being emptied
            while page := self._engine.listing(namespace=name).page(_PAGE):
                await self._engine.delete_many(INTERNAL, entity_ids=[entity_id(text) for text in page])
        await self._engine.delete_namespace(name)
        return Reply(status=204, headers=())

    def config(self) -> Reply:
        """EP-80."""
        return json_reply(self._engine.config)

    async def configure(self, call: Call) -> Reply:
        """EP-81."""
        self._demand(call, "Unauthorized")
        change = await call.json(_config_change)
        given = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not None}
        await self._engine.set_config(msgspec.structs.replace(self._engine.config, **given))
        return json_reply(self._engine.config)
