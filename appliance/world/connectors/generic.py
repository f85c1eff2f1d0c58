"""Generic sources: any JSON document behind a URL becomes an entity (``spec/flux-state.md`` CN-41, CN-44).

Each answer is one event; an answer that says the same as the one before is told again once a minute at most,
so that a fast source does not wear the flash out. A 304 is a success without an event.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from appliance.wire.depth import MAX_DEPTH, depth_exceeds
from appliance.wire.errors import Invalid, Unreachable
from appliance.world.events import entity_id_fault
from appliance.world.types import INTERNAL, Caller

from .addresses import ReachPolicy, parse_target
from .book import Secrets
from .fetch import Answer, Fetcher
from .mapping import compiled
from .publishing import Publisher, SourceEvent
from .records import GenericSource, NewSource

__all__ = ["FLUX_OWNER", "TOKEN_OWNER", "GenericPoller", "checked_source", "source_tokens"]

TOKEN_OWNER: Final = "generic"  # noqa: S105 - an owner's name (CN-03)
FLUX_OWNER: Final = "generic.flux"
"""Owners of a source's two tokens; the connector is the source's id."""

_STREAM: Final = "generic"
_AGAIN_S: Final = 60.0
_MAX_INTERVAL_S: Final = 31 * 86_400
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_OWN_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_LONGEST_NAME: Final = 200

T = TypeVar("T")
_any = msgspec.json.Decoder()
_object: msgspec.json.Decoder[dict[str, object]] = msgspec.json.Decoder(dict[str, msgspec.Raw])


def checked_source(wanted: NewSource, policy: ReachPolicy, now_ms: int) -> GenericSource:
    """The source that ``wanted`` describes, under a fresh id.

    Raises:
        Invalid: a value is wrong; ``field`` names it.
        Refused: the address may not be asked.
    """
    name = wanted.name.strip()
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise Invalid(f"name must have 1 to {_LONGEST_NAME} printable characters", field="name")
    if not 1 <= wanted.poll_interval_secs <= _MAX_INTERVAL_S:
        raise Invalid(f"poll_interval_secs must be 1 to {_MAX_INTERVAL_S}", field="poll_interval_secs")
    if not wanted.namespace or "/" in wanted.namespace:
        raise Invalid("namespace must not be empty and has no slash", field="namespace")
    entity_id = f"{wanted.namespace}/{wanted.entity_key}"
    if not wanted.entity_key or (fault := entity_id_fault(entity_id)):
        raise Invalid(f"entity_key: {fault if wanted.entity_key else 'is empty'}", field="entity_key")
    policy.check_literal(parse_target(wanted.url))
    if wanted.mapping is not None:
        compiled(wanted.mapping)
    source = GenericSource(
        source_id=str(uuid.uuid4()),
        name=name,
        url=wanted.url,
        poll_interval_s=float(wanted.poll_interval_secs),
        entity_key=wanted.entity_key,
        namespace=wanted.namespace,
        mapping=wanted.mapping,
        created_at_ms=now_ms,
    )
    return _with_auth(source, wanted)


def _with_auth(source: GenericSource, wanted: NewSource) -> GenericSource:
    auth = wanted.auth_type
    if auth == "none":
        return source
    if not wanted.token:
        raise Invalid("token is needed for this auth_type", field="token")
    if auth == "bearer":
        return msgspec.structs.replace(source, auth="bearer")
    header = auth.get("api_key_header", "") if isinstance(auth, dict) and len(auth) == 1 else ""
    if not _HEADER.fullmatch(header) or header.lower() in _OWN_HEADERS:
        raise Invalid('auth_type must be "none", "bearer" or {"api_key_header": NAME}', field="auth_type")
    return msgspec.structs.replace(source, auth="api_key_header", header=header)


def source_tokens(wanted: NewSource) -> dict[str, str]:
    """The tokens that came with a source, by their owner.

    Raises:
        Invalid: one has characters that no header takes.
    """
    tokens = {}
    for owner, field, token in (
        (TOKEN_OWNER, "token", wanted.token if wanted.auth_type != "none" else None),
        (FLUX_OWNER, "flux_namespace_token", wanted.flux_namespace_token),
    ):
        if token:
            if not _TOKEN.fullmatch(token):
                raise Invalid(f"{field} must be printable ASCII without spaces", field=field)
            tokens[owner] = token
    return tokens


class GenericPoller:
    """Asks one source.

    Args:
        source: what to ask.
        fetcher: asks.
        publisher: takes events.
        secrets: owner to what is stored for it.
        now: seconds of a monotonic clock.
    """

    def __init__(
        self,
        source: GenericSource,
        fetcher: Fetcher,
        publisher: Publisher,
        secrets: Callable[[str], Secrets | None],
        now: Callable[[], float],
    ) -> None:
        self._source = source
        self._fetcher = fetcher
        self._publisher = publisher
        self._secrets = secrets
        self._now = now
        self._mapped = compiled(source.mapping) if source.mapping is not None else None
        self._etag: str | None = None
        self._modified: str | None = None
        self._last: dict[str, object] | None = None
        self._told_at = float("-inf")

    async def poll(self) -> None:
        """Ask once.

        Raises:
            Unreachable, Invalid, Refused, Damaged: it failed; the message says how.
            Busy, Unavailable: the world did not take the event.
        """
        answer = await self._fetcher.fetch(self._source.url, headers=self._headers())
        if answer.status == 304 and self._last is not None:
            return
        properties = self._properties(answer)
        if properties != self._last or self._now() >= self._told_at + _AGAIN_S:
            await self._publish(properties)
            self._last, self._told_at = properties, self._now()
        # Only now: an answer that was not published must be sent again.
        self._etag = answer.headers.get("etag")
        self._modified = answer.headers.get("last-modified")

    def _headers(self) -> dict[str, str]:
        headers = {}
        if self._last is not None and self._etag:
            headers["If-None-Match"] = self._etag
        elif self._last is not None and self._modified:
            headers["If-Modified-Since"] = self._modified
        if self._source.auth != "none":
            secrets = self._secrets(TOKEN_OWNER)
            if secrets is None:
                raise Invalid("the token of this source is gone; add the source anew", field="token")
            if self._source.auth == "bearer":
                headers["Authorization"] = f"Bearer {secrets.access}"
            else:
                headers[self._source.header] = secrets.access
        return headers

    def _properties(self, answer: Answer) -> dict[str, object]:
        if answer.status != 200:
            where = " (redirects are not followed)" if 300 <= answer.status < 400 else ""
            raise Unreachable(f"the source answered {answer.status}{where}")
        if self._mapped is not None:
            found = self._mapped.properties(_document(answer.body, _any))
            if not found:
                raise Invalid("the answer has none of the mapped values", field="mapping")
        else:
            found = _document(answer.body, _object)
        # A source may not delete entities (ST-11).
        return {name: value for name, value in found.items() if name != "__deleted__"}

    async def _publish(self, properties: dict[str, object]) -> None:
        flux = self._secrets(FLUX_OWNER)
        caller = INTERNAL if flux is None else Caller(token=flux.access)
        event = SourceEvent(
            stream=_STREAM,
            source=f"bento.{self._source.source_id}",
            entity_id=self._source.entity_id,
            properties=properties,
        )
        await self._publisher.publish([event], caller)


def _document(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        body.decode()  # raw values are passed over unread
        if depth_exceeds(body, MAX_DEPTH):
            raise Unreachable("the answer is nested too deeply")
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise Invalid("the answer is no JSON object; give the source a mapping", field="mapping") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreachable(f"the answer is not JSON: {str(error)[:120]}") from None
