"""From a matched request to a call: path, query and body become parameters. Sans-IO.

A body's keys go before the path's, except where an endpoint says otherwise; the hive of the path is the
target and no parameter (``spec/admin-api.md §A.3, §A.8``).
"""

from __future__ import annotations

import msgspec

from appliance.wire.admin.outcome import AdminCall
from appliance.wire.errors import Invalid

from .endpoints import Body, Match
from .paths import decoded, query_of

__all__ = ["call_of"]

_OBJECT_WANTED = "request body must be a JSON object"


def call_of(match: Match, query_string: bytes, body: bytes) -> AdminCall:
    """The call that a request asks for.

    Args:
        match: endpoint and path values.
        query_string: raw query.
        body: whole body; its content type does not matter.

    Raises:
        Invalid: body, path or query cannot be read.
    """
    endpoint = match.endpoint
    target: str | None = None
    path: dict[str, object] = {}
    for name, segment in match.values:
        if name == "hive":
            target = segment
        else:
            path[name] = decoded(segment)
    query = query_of(query_string)
    given = {wanted: query[name] for name, wanted in endpoint.query.items() if name in query}
    target = given.pop("target", None) or target
    content = _body(endpoint.body, body)
    if endpoint.path_wins:
        params = {**given, **content, **path, **({"url_hive": target} if target else {})}
    else:
        params = {**path, **given, **content}
    params |= endpoint.fixed
    action = endpoint.action
    if endpoint.instead is not None and query.get(endpoint.instead[0]):
        action = endpoint.instead[1]
    return AdminCall(action=action, target=target, params=params)


def _body(kind: Body, body: bytes) -> dict[str, object]:
    if kind == "none":
        return {}
    if not body.strip():
        if kind == "open":
            return {}
        raise Invalid(_OBJECT_WANTED, field="body")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"invalid JSON body: {error}", field="body") from error
    if not isinstance(value, dict):
        raise Invalid(_OBJECT_WANTED, field="body")
    return {"config": value} if kind == "config" else value
