"""The API document: complete, valid where it refers, cheap to serve."""

from __future__ import annotations

import re

import msgspec

from appliance.http.admin.endpoints import ENDPOINTS
from appliance.http.admin.openapi import document, document_bytes
from appliance.wire.admin.catalogue import CATALOGUE


def references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_endpoint_is_described():
    paths = document()["paths"]
    for endpoint in ENDPOINTS:
        operation = paths[endpoint.path][endpoint.method.lower()]
        assert operation["summary"]
        placed = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert placed == set(re.findall(r"{(\w+)}", endpoint.path))
        assert ("requestBody" in operation) == (endpoint.body != "none")
        assert {"200", "400", "404", "500", "502", "504"} <= set(operation["responses"])
    assert {"/health", "/metrics", "/tap", "/modules", "/docs"} <= set(paths)


def test_every_path_of_the_catalogue_is_served():
    paths = document()["paths"]
    shapes = {(re.sub(r"{\w+}", "{}", path), method) for path, value in paths.items() for method in value}
    for entry in CATALOGUE:
        for pattern in entry.path_patterns:
            method, _, path = pattern.partition(" ")
            assert (re.sub(r"{\w+}", "{}", path), method.lower()) in shapes, pattern


def test_references_and_operation_ids_are_good():
    made = document()
    schemas = made["components"]["schemas"]
    for reference in references(made):
        assert reference.removeprefix("#/components/schemas/") in schemas
    ids = [
        operation["operationId"]
        for value in made["paths"].values()
        for operation in value.values()
        if "operationId" in operation
    ]
    assert len(ids) == len(set(ids))


def test_it_is_made_once():
    assert document_bytes() is document_bytes()
    assert msgspec.json.decode(document_bytes())["openapi"] == "3.1.0"
