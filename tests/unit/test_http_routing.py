"""The JSON router: unknown paths, wrong methods, no slash redirects."""

from __future__ import annotations

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from trio.testing import trio_test

from appliance.http.config import DoorConfig
from appliance.http.counters import Counters
from appliance.http.gate import Gate
from appliance.http.routing import json_router


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def client() -> httpx.AsyncClient:
    gate = Gate(json_router([Route("/hello", hello)]), DoorConfig(name="t"), Counters())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=gate), base_url="http://localhost")


@trio_test
async def test_a_known_path_is_served() -> None:
    async with client() as http:
        assert (await http.get("/hello")).text == "hello"


@pytest.mark.parametrize("path", ["/", "/hello/", "/nope"])
@trio_test
async def test_an_unknown_path_is_a_json_404(path: str) -> None:
    async with client() as http:
        answer = await http.get(path)
    assert answer.status_code == 404
    assert answer.json() == {"error": "not_found"}


@trio_test
async def test_a_wrong_method_is_a_json_405() -> None:
    async with client() as http:
        answer = await http.post("/hello")
    assert answer.status_code == 405
    assert answer.json()["code"] == "INVALID_REQUEST"
