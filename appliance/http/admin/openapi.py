"""The OpenAPI 3.1 document, made from the table of endpoints and the Structs of bodies and answers.

Made once, when somebody asks first; a request costs the copy of its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from appliance import __version__
from appliance.wire.admin.catalogue import ACTIONS
from appliance.wire.admin.codes import DOCUMENTED_STATUSES

from .answers import ENVELOPES, Failure, NotFoundBody, ShortAnswer
from .endpoints import ENDPOINTS, Endpoint

__all__ = ["document", "document_bytes"]

_PLACE: Final = re.compile(r"{(\w+)}")
_REF: Final = "#/components/schemas/{name}"
_WORDS: Final = {
    200: "Done.",
    202: "Accepted; not everything has converged (`sync_pending`).",
    400: "The request is wrong.",
    401: "A token is needed.",
    403: "Host or origin is refused.",
    404: "There is no such thing.",
    408: "The request was not complete in time.",
    409: "It does not fit the state of things.",
    413: "The body is too large.",
    422: "The content is refused.",
    500: "It failed; the code says how.",
    501: "This version has no such service.",
    502: "A service failed or cannot be reached.",
    503: "Something that is needed is not there.",
    504: "No answer in time.",
}

Json = dict[str, Any]


@cache
def document_bytes() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(document())


def document() -> Json:
    """The document as JSON values."""
    shapes: list[object] = [Failure, NotFoundBody, ShortAnswer, *ENVELOPES.values()]
    shapes += [one.shape for one in ENDPOINTS if isinstance(one.shape, type)]
    _, components = msgspec.json.schema_components(
        list(dict.fromkeys(shapes)), ref_template=_REF, schema_hook=_any
    )
    paths: Json = {}
    for endpoint in ENDPOINTS:
        method = endpoint.method.lower()
        if method not in paths.setdefault(endpoint.path, {}):
            paths[endpoint.path][method] = _operation(endpoint)
    paths.update(_OWN_PATHS)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fluxbee Edge admin API",
            "version": __version__,
            "description": "Answers are envelopes with five keys; `payload` is what the service said.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _any(kind: type) -> Json:
    """Schema of ``object``: any JSON value."""
    if kind is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError  # msgspec's word for "not a type of mine"; it names the type in its own error


def _operation(endpoint: Endpoint) -> Json:
    entry = ACTIONS.get(endpoint.action)
    operation: Json = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary or (entry.summary if entry is not None else endpoint.action),
        "tags": [_tag(endpoint)],
        "parameters": list(_parameters(endpoint)),
        "responses": _responses(endpoint),
        "x-fluxbee-action": endpoint.action,
        "x-fluxbee-read-only": endpoint.method == "GET" or (entry is not None and entry.read_only),
    }
    if endpoint.body != "none":
        schema = _ref(endpoint.shape) if isinstance(endpoint.shape, type) else {"type": "object"}
        operation["requestBody"] = {
            "required": endpoint.body in ("strict", "config"),
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    words = re.sub(r"[^a-zA-Z0-9]+", "_", endpoint.path).strip("_")
    return f"{endpoint.method.lower()}_{words}"


def _tag(endpoint: Endpoint) -> str:
    parts = [part for part in endpoint.path.split("/") if part and part not in ("hives", "{hive}")]
    return parts[0] if parts else "hives"


def _parameters(endpoint: Endpoint) -> Iterator[Json]:
    for name in _PLACE.findall(endpoint.path):
        text: Json = {"type": "string", "minLength": 1}
        if name == "hive":
            text |= {"maxLength": 64, "pattern": "^[A-Za-z0-9_-]+$"}
        yield {"name": name, "in": "path", "required": True, "schema": text}
    for name in endpoint.query:
        yield {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}


def _ref(shape: object) -> Json:
    name = getattr(shape, "__name__", "")
    return {"type": "object"} if name == "dict" else {"$ref": _REF.format(name=name)}


def _content(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _responses(endpoint: Endpoint) -> Json:
    good = ENVELOPES.get(endpoint.action, ENVELOPES[""])
    responses: Json = {}
    for status in (*DOCUMENTED_STATUSES, 408):
        if status in (200, 202):
            schema = _ref(ShortAnswer if endpoint.form == "short" else good)
        elif status == 404:
            schema = {"anyOf": [_ref(Failure), _ref(NotFoundBody)]}
        elif endpoint.form == "short":
            schema = {"anyOf": [_ref(ShortAnswer), _ref(Failure)]}
        else:
            schema = _ref(Failure)
        responses[str(status)] = {"description": _WORDS[status], "content": _content(schema)}
    if endpoint.action == "get_node_logs":
        responses["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    return dict(sorted(responses.items()))


def _own(summary: str, media: Mapping[str, Json], **more: object) -> Json:
    responses: Json = {"200": {"description": "Done.", "content": dict(media)}}
    for status in (401, 403, 503):
        responses[str(status)] = {"description": _WORDS[status], "content": _content(_ref(Failure))}
    responses["404"] = {"description": _WORDS[404], "content": _content(_ref(NotFoundBody))}
    return {"get": {"summary": summary, "tags": ["door"], "responses": responses, **more}}


def _health_path() -> Json:
    made = _own("Is this hive well? Never waits, never asks for a token.", _content({"type": "object"}))
    made["get"]["responses"]["503"]["content"] = _content({"type": "object"})
    return made


def _tap_path() -> Json:
    made = _own(
        "What the router routes, as server-sent events.",
        {"text/event-stream": {"schema": {"type": "string"}}},
        parameters=[{"name": "name", "in": "query", "required": False, "schema": {"type": "string"}}],
    )
    for status in (400, 409, 500, 502, 504):
        made["get"]["responses"][str(status)] = {
            "description": _WORDS[status],
            "content": _content(_ref(Failure)),
        }
    return made


def _path_parameters(*names: str) -> list[Json]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _module_path() -> Json:
    made = _own("Versions of a module.", _content({"type": "object"}), parameters=_path_parameters("name"))
    return _refusing(made, "get", 400)


def _module_version_path() -> Json:
    media = {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("application/x-tar", "application/octet-stream")
    }
    parameters = _path_parameters("name", "version")
    made = _own("A module, as tar or as the file that it is.", media, parameters=parameters)
    given = _own("Store a module, once.", _content({"type": "object"}), parameters=parameters)["get"]
    given["requestBody"] = {
        "description": "An uncompressed tar, whatever the content type says.",
        "required": True,
        "content": {"application/octet-stream": media["application/octet-stream"]},
    }
    made["post"] = given
    return _refusing(_refusing(made, "get", 400), "post", 400, 409, 413)


def _refusing(made: Json, method: str, *statuses: int) -> Json:
    for status in statuses:
        refusal = {"description": _WORDS[status], "content": _content({"type": "object"})}
        made[method]["responses"][str(status)] = refusal
    made[method]["responses"]["404"]["content"] = _content({"type": "object"})
    return made


_TEXT: Final[Json] = {"schema": {"type": "string"}}
_OWN_PATHS: Final[Json] = {
    "/health": _health_path(),
    "/metrics": _own("Counts of every service, for Prometheus.", {"text/plain": _TEXT}),
    "/openapi.json": _own("This document.", _content({"type": "object"})),
    "/docs": _own("This document, to read.", {"text/html": _TEXT}),
    "/tap": _tap_path(),
    "/modules": _own("Names of stored modules.", _content({"type": "object"})),
    "/modules/{name}": _module_path(),
    "/modules/{name}/{version}": _module_version_path(),
    "/admin/executor/functions": _own("Functions of the plan executor: none.", _content({"type": "object"})),
}
