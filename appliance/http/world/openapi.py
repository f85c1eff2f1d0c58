"""The world door's OpenAPI document, served at ``/openapi.json``; tests compare it with what is served."""

from __future__ import annotations

from typing import Final

import msgspec

from appliance import __version__

__all__ = ["OPENAPI"]

_Json = dict[str, object]
_ERRORS: Final = {
    400: "the request is wrong",
    401: "a token is needed, or it is not known",
    403: "the token belongs to another namespace",
    404: "there is none",
    409: "it exists already",
    413: "the body is too long",
    415: "the body is not JSON",
    422: "the body has the wrong shape",
    429: "too much at once; see Retry-After",
    500: "it failed",
    503: "not now; see Retry-After",
    507: "the world is full",
}


def _ref(name: str) -> _Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _array(items: _Json) -> _Json:
    return {"type": "array", "items": items}


def _content(schema: _Json, media: str = "application/json") -> _Json:
    return {media: {"schema": schema}}


def _operation(
    summary: str,
    answer: _Json | None,
    *,
    errors: tuple[int, ...] = (),
    body: _Json | None = None,
    parameters: tuple[_Json, ...] = (),
    secured: bool = False,
    status: int = 200,
) -> _Json:
    responses: _Json = {str(status): {"description": "done"}}
    if answer is not None:
        responses[str(status)] = {"description": "done", "content": _content(answer)}
    for code in (*errors, 503):
        responses[str(code)] = {"description": _ERRORS[code], "content": _content(_ref("Error"))}
    operation: _Json = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    if parameters:
        operation["parameters"] = list(parameters)
    if secured:
        operation["security"] = [{"bearer": []}, {}]
    return operation


def _parameter(name: str, schema: str, about: str, *, where: str = "query", required: bool = False) -> _Json:
    return {
        "name": name,
        "in": where,
        "required": required or where == "path",
        "description": about,
        "schema": {"type": schema},
    }


_ID = _parameter("id", "string", "entity id; slashes may be written as %2F or as they are", where="path")
_NAME = _parameter("name", "string", "name of the namespace, or of the connector", where="path")
_KEY = _parameter(
    "Idempotency-Key", "string", "publishing again with this key stores nothing", where="header"
)
_WRITE = (400, 401, 403, 413, 429, 507)

_EVENT: Final[_Json] = {
    "type": "object",
    "required": ["stream", "source", "payload"],
    "properties": {
        "eventId": {"type": ["string", "null"], "maxLength": 512},
        "stream": {"type": "string", "pattern": "^[a-z0-9]+(\\.[a-z0-9]+)*$", "maxLength": 255},
        "source": {"type": "string", "minLength": 1, "maxLength": 512},
        "timestamp": {"type": ["integer", "null"], "description": "Unix milliseconds; now when absent"},
        "key": {"type": ["string", "null"], "maxLength": 512},
        "schema": {"type": ["string", "null"], "maxLength": 512},
        "payload": {
            "type": "object",
            "properties": {"entity_id": {"type": "string"}, "properties": {"type": "object"}},
        },
    },
}


def _strings(*names: str, **more: _Json) -> _Json:
    return {"type": "object", "properties": {**{name: {"type": "string"} for name in names}, **more}}


_NUMBER: Final[_Json] = {"type": "integer", "minimum": 0}
_SCHEMAS: Final[_Json] = {
    "Error": {**_strings("error"), "required": ["error"]},
    "Event": _EVENT,
    "Receipt": _strings("eventId", "stream", seq=_NUMBER),
    "BatchReport": {
        "type": "object",
        "properties": {
            "successful": _NUMBER,
            "failed": _NUMBER,
            "results": _array(
                {
                    "type": "object",
                    "properties": {
                        name: {"type": ["string", "null"]} for name in ("eventId", "stream", "error")
                    },
                }
            ),
        },
    },
    "Entity": _strings("id", "lastUpdated", properties={"type": "object"}, seq=_NUMBER),
    "Filter": _strings("namespace", "prefix", "confirm", entity_ids=_array({"type": "string"})),
    "Deleted": {
        "type": "object",
        "properties": {"deleted": _NUMBER, "failed": _NUMBER, "errors": _array({"type": "string"})},
    },
    "NewNamespace": _strings("namespaceId", "name", "token"),
    "Namespace": _strings("namespaceId", "name", "createdAt", entityCount=_NUMBER),
    "Config": {
        "type": "object",
        "properties": {
            "rate_limit_enabled": {"type": "boolean"},
            "rate_limit_per_namespace_per_minute": _NUMBER,
            "body_size_limit_single_bytes": _NUMBER,
            "body_size_limit_batch_bytes": _NUMBER,
        },
    },
    "NewSource": {
        "type": "object",
        "required": ["name", "url", "poll_interval_secs", "entity_key", "namespace"],
        "properties": {
            "name": {"type": "string"},
            "url": {"type": "string", "format": "uri"},
            "poll_interval_secs": {"type": "number", "minimum": 1},
            "entity_key": {"type": "string"},
            "namespace": {"type": "string"},
            "auth_type": {
                "oneOf": [{"enum": ["none", "bearer"]}, _strings("api_key_header")],
                "default": "none",
            },
            "token": {"type": ["string", "null"]},
            "flux_namespace_token": {"type": ["string", "null"]},
            "mapping": {
                "type": ["object", "null"],
                "description": "property to path, such as `a.b[0].c`; the whole document without it",
                "additionalProperties": {"type": "string"},
            },
        },
    },
    "NewTap": {
        **_strings(
            "tap_name",
            "namespace",
            "entity_key_field",
            config_json={"type": "string", "contentMediaType": "application/json"},
            poll_interval_secs={"type": "number", "minimum": 1},
            flux_namespace_token={"type": ["string", "null"]},
        ),
        "required": ["tap_name", "namespace", "entity_key_field", "config_json", "poll_interval_secs"],
    },
    "Source": _strings(
        "name",
        "type",
        "status",
        "source_id",
        "last_started",
        "last_success",
        "last_error",
        enabled={"type": "boolean"},
    ),
    "Connectors": {
        "type": "object",
        "properties": {"connectors": _array(_strings("name", "status", enabled={"type": "boolean"}))},
    },
}


def _events() -> _Json:
    batch: _Json = {
        "type": "object",
        "required": ["events"],
        "properties": {"events": {**_array(_ref("Event")), "minItems": 1, "maxItems": 100_000}},
    }
    history = (
        _parameter("entity", "string", "exact id", required=True),
        _parameter("since", "string", "RFC 3339 or Unix milliseconds; a day ago by default"),
        _parameter("until", "string", "RFC 3339 or Unix milliseconds, exclusive"),
        _parameter("limit", "integer", "1 to 500, 100 by default"),
        _parameter("before_seq", "integer", "older than this sequence"),
    )
    post = _operation(
        "Publish one event",
        _ref("Receipt"),
        errors=_WRITE,
        body=_ref("Event"),
        parameters=(_KEY,),
        secured=True,
    )
    many = _operation(
        "Publish many events: all that are accepted, or none",
        _ref("BatchReport"),
        errors=(400, 413, 429),
        body=batch,
        parameters=(_KEY,),
        secured=True,
    )
    for operation in (post, many):
        content = operation["requestBody"]["content"]  # type: ignore[index]
        content |= _content({"type": "string", "description": "one event per line"}, "application/x-ndjson")
    get = _operation(
        "Stored events of one entity, newest first", _array(_EVENT), errors=(400,), parameters=history
    )
    return {"/api/events": {"get": get, "post": post}, "/api/events/batch": {"post": many}}


def _entities() -> _Json:
    listing = (
        _parameter("prefix", "string", "ids that begin with it"),
        _parameter("namespace", "string", "ids whose part before the first slash is this"),
        _parameter("limit", "integer", "at most so many"),
        _parameter("after", "string", "ids behind this one"),
    )
    past = (
        _parameter("at", "string", "as it was at this time (RFC 3339 or Unix milliseconds)"),
        _parameter("seq", "integer", "as it was after this event"),
    )
    return {
        "/api/state/entities": {
            "get": _operation("All entities", _array(_ref("Entity")), errors=(400,), parameters=listing)
        },
        "/api/state/entities/{id}": {
            "get": _operation("One entity", _ref("Entity"), errors=(400, 404), parameters=(_ID, *past)),
            "delete": _operation(
                "Delete an entity",
                _strings("entity_id", "eventId", seq=_NUMBER),
                errors=_WRITE,
                parameters=(_ID,),
                secured=True,
            ),
        },
        "/api/state/entities/delete": {
            "post": _operation(
                "Delete many entities",
                _ref("Deleted"),
                errors=(*_WRITE, 415, 422),
                body=_ref("Filter"),
                secured=True,
            )
        },
    }


def _administration() -> _Json:
    name: _Json = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    return {
        "/api/namespaces": {
            "post": _operation(
                "Create a namespace",
                _ref("NewNamespace"),
                errors=(400, 401, 404, 409, 415, 422, 429),
                body=name,
                secured=True,
            )
        },
        "/api/namespaces/{name}": {
            "get": _operation("A namespace", _ref("Namespace"), errors=(404,), parameters=(_NAME,)),
            "delete": _operation(
                "Forget a namespace and its token",
                None,
                errors=(401, 404),
                parameters=(_NAME, _parameter("entities", "string", "`delete`: its entities too")),
                secured=True,
                status=204,
            ),
        },
        "/api/namespaces/{name}/rotate": {
            "post": _operation(
                "A new token", _ref("NewNamespace"), errors=(401, 404), parameters=(_NAME,), secured=True
            )
        },
        "/api/admin/config": {
            "get": _operation("Runtime configuration", _ref("Config")),
            "put": _operation(
                "Change the runtime configuration",
                _ref("Config"),
                errors=(400, 401, 415, 422),
                body=_ref("Config"),
                secured=True,
            ),
        },
        "/api/connectors": {"get": _operation("Connectors", _ref("Connectors"), errors=(401,), secured=True)},
        "/api/connectors/{name}": {
            "get": _operation(
                "A connector",
                _strings("name", "status", enabled={"type": "boolean"}, poll_interval_seconds=_NUMBER),
                errors=(401, 404),
                parameters=(_NAME,),
                secured=True,
            )
        },
        "/api/admin/backup": {"get": _stream("A copy of the world", answers=True)},
        "/api/admin/restore": {"post": _stream("Replace the world by a copy: all of it or nothing")},
        "/health": {"get": _operation("How the world is", _strings("status"))},
        "/ready": {"get": _operation("Whether it answers", {"type": "object"})},
    }


def _stream(summary: str, *, answers: bool = False) -> _Json:
    """An endpoint of the administrator whose body, or answer, is a file."""
    file = _content({"type": "string", "format": "binary"}, "application/octet-stream")
    operation = _operation(summary, None if answers else {"type": "object"}, errors=(401, 409), secured=True)
    if answers:
        operation["responses"]["200"]["content"] = file  # type: ignore[index]
    else:
        operation["requestBody"] = {"required": True, "content": file}
    return operation


def _adding(summary: str, body: str) -> _Json:
    errors = (400, 401, 403, 415, 422)
    return _operation(
        summary, _strings("source_id"), errors=errors, body=_ref(body), secured=True, status=201
    )


def _sources() -> _Json:
    """Credentials, logins and sources; the latter are served below ``/api/connectors`` too."""
    token = _operation(
        "Store a token, encrypted",
        {"type": "object"},
        errors=(400, 401, 404, 415, 422),
        body={"type": "object", "required": ["token"], "properties": {"token": {"type": "string"}}},
        parameters=(_NAME,),
        secured=True,
    )
    forget = _operation(
        "Forget the token", {"type": "object"}, errors=(401, 404), parameters=(_NAME,), secured=True
    )
    link = _operation(
        "A link with which a browser may start a login, once",
        _strings("url", expires_in=_NUMBER),
        errors=(401, 404, 500),
        parameters=(_NAME,),
        secured=True,
    )
    source_id = _parameter("source_id", "string", "from the list", where="path")
    remove = _operation(
        "Forget a source", None, errors=(401,), parameters=(source_id,), secured=True, status=204
    )
    base = "/api/connector-manager/connectors"
    sync = _operation(
        "Run it now", None, errors=(401, 404), parameters=(source_id,), secured=True, status=202
    )
    return {
        "/api/connectors/{name}/token": {"post": token, "delete": forget},
        "/api/connectors/{name}/oauth/link": {"post": link},
        base: {"get": _operation("Sources and how they are", _array(_ref("Source")))},
        f"{base}/generic": {"post": _adding("Ask a JSON document again and again", "NewSource")},
        f"{base}/generic/{{source_id}}": {"delete": remove},
        f"{base}/taps": {
            "get": _operation(
                "Taps that may run (`world.taps`)",
                _array(_strings("name", "label", "description", "pip_url")),
            )
        },
        f"{base}/named": {"post": _adding("Run an installed tap again and again", "NewTap")},
        f"{base}/named/{{source_id}}": {"delete": remove},
        f"{base}/named/{{source_id}}/sync": {"post": sync},
    }


OPENAPI: Final = msgspec.json.encode(
    {
        "openapi": "3.1.0",
        "info": {"title": "Fluxbee Edge: world state", "version": __version__},
        "paths": {**_events(), **_entities(), **_administration(), **_sources()},
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }
)
"""The document as compact JSON."""
