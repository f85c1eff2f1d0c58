"""Who may pass: Host against rebinding, Origin against foreign writes, token against strangers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.http.config import DoorConfig
from appliance.http.guard import Guard, host_of, is_foreign

TOKEN = "open-sesame"


def scope(
    *,
    kind: str = "http",
    method: str = "GET",
    path: str = "/x",
    client: tuple[str, int] | None = ("127.0.0.1", 5),
    **headers: str,
) -> dict[str, object]:
    made: dict[str, object] = {
        "type": kind,
        "path": path,
        "client": client,
        "headers": [(k.replace("_", "-").encode(), v.encode("latin-1")) for k, v in headers.items()],
    }
    if kind == "http":
        made["method"] = method
    return made


def code(config: DoorConfig, asked: dict[str, object]) -> str | None:
    refusal = Guard(config).refusal(asked)
    return None if refusal is None else refusal.code


LOCAL = DoorConfig(name="admin", allowed_hosts=frozenset({"Box.Local"}))
REMOTE = DoorConfig(name="admin", listen="0.0.0.0:8080", token=TOKEN)
ALL = DoorConfig(name="admin", token=TOKEN, ask_whom="all")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1:8080",
        "[::1]:8080",
        "10.0.0.7",
        "box.local:80",
        "a.localhost",
    ],
)
def test_own_names_and_literals_pass(host: str) -> None:
    assert code(LOCAL, scope(host=host)) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "[::1",
        "a:b:c",
    ],
)
def test_a_rebound_name_is_refused_for_every_method(host: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        assert code(LOCAL, scope(host=host, method=method)) == "HOST_REFUSED"
    assert code(LOCAL, scope(kind="websocket", host=host)) == "HOST_REFUSED"


def test_the_name_that_the_door_listens_on_is_its_own() -> None:
    named = DoorConfig(name="world", listen="Bee.example:3000", token=TOKEN)
    assert code(named, scope(host="bee.example:3000")) is None


def test_no_host_at_all_is_an_old_client() -> None:
    assert code(LOCAL, scope()) is None


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:5173", "http://127.0.0.1:8080"]
)
def test_a_foreign_page_reads_but_does_not_write(origin: str) -> None:
    ours = "localhost:8080"
    assert code(LOCAL, scope(host=ours, origin=origin)) is None
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert code(LOCAL, scope(method=method, host=ours, origin=origin)) == "ORIGIN_REFUSED"
    assert code(LOCAL, scope(kind="websocket", host=ours, origin=origin)) == "ORIGIN_REFUSED"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8080", "localhost:8080"),
        ("http://LOCALHOST:8080/", "localhost:8080"),
        ("http://localhost", "localhost:80"),
        ("https://box.local", "box.local"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://[::1]", "[::1]"),
    ],
)
def test_our_own_page_writes(origin: str, host: str) -> None:
    assert code(LOCAL, scope(method="POST", host=host, origin=origin)) is None


def test_an_allowed_origin_writes() -> None:
    config = DoorConfig(name="world", allowed_origins=frozenset({"https://ui.example/"}))
    asked = {"method": "POST", "host": "localhost"}
    assert code(config, scope(**asked, origin="https://UI.example")) is None
    assert code(config, scope(**asked, origin="http://ui.example")) == "ORIGIN_REFUSED"


@pytest.mark.parametrize(
    ("site", "refused"),
    [("cross-site", True), ("same-site", True), ("same-origin", False), ("none", False)],
)
def test_fetch_metadata_speaks_where_origin_is_missing(site: str, refused: bool) -> None:
    asked = scope(method="POST", host="localhost", sec_fetch_site=site)
    assert (code(LOCAL, asked) == "ORIGIN_REFUSED") is refused


def test_a_foreign_page_with_the_token_writes() -> None:
    config = DoorConfig(name="admin", token=TOKEN)
    asked = {"method": "POST", "host": "localhost", "origin": "http://evil.example"}
    assert code(config, scope(**asked)) == "ORIGIN_REFUSED"
    assert code(config, scope(**asked, authorization=f"Bearer {TOKEN}")) is None


def test_strangers_show_a_token_and_locals_need_none() -> None:
    stranger = ("192.168.1.9", 1)
    assert code(REMOTE, scope(client=stranger)) == "TOKEN_REQUIRED"
    assert code(REMOTE, scope(client=None)) == "TOKEN_REQUIRED"
    assert code(REMOTE, scope()) is None
    assert code(REMOTE, scope(client=("::ffff:127.0.0.1", 1))) is None
    assert code(ALL, scope()) == "TOKEN_REQUIRED"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer  {TOKEN}"},
        {"x_fluxbee_token": TOKEN},
    ],
)
def test_the_token_opens(headers: dict[str, str]) -> None:
    assert code(ALL, scope(method="POST", **headers)) is None
    assert code(ALL, scope(kind="websocket", **headers)) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"x_fluxbee_token": ""},
        {"x_fluxbee_token": "ÿ"},
    ],
)
def test_anything_else_does_not(headers: dict[str, str]) -> None:
    assert code(ALL, scope(method="POST", **headers)) == "TOKEN_REQUIRED"


def test_a_missing_token_is_a_401() -> None:
    refusal = Guard(ALL).refusal(scope())
    assert refusal is not None
    assert refusal.status == 401


def test_health_is_read_by_anybody_and_written_by_nobody() -> None:
    assert code(ALL, scope(path="/health")) is None
    assert code(ALL, scope(path="/health", method="HEAD")) is None
    assert code(ALL, scope(path="/health", method="POST")) == "TOKEN_REQUIRED"
    assert code(ALL, scope(path="/health", kind="websocket")) == "TOKEN_REQUIRED"


def test_a_preflight_passes_to_the_application() -> None:
    assert code(ALL, scope(method="OPTIONS", origin="http://evil.example", host="localhost")) is None


def test_a_further_credential_counts_as_the_token() -> None:
    config = DoorConfig(name="world", token=TOKEN, ask_whom="all", credential=lambda s: s["path"] == "/mine")
    assert code(config, scope(path="/mine")) is None
    assert code(config, scope(path="/other")) == "TOKEN_REQUIRED"


@given(st.text(max_size=60))
def test_any_host_text_is_judged_without_an_error(text: str) -> None:
    name = host_of(text)
    assert name is None or (name == name.lower() and name)


@given(
    st.text(alphabet=st.characters(max_codepoint=255), max_size=40),
    st.text(alphabet="abc.:[]0", max_size=20),
)
def test_any_origin_is_judged_and_never_ours_by_accident(origin: str, host: str) -> None:
    if not is_foreign(scope(host=host, origin=origin), frozenset()):
        name = host.strip().removesuffix(":80").removesuffix(":443")
        assert name in origin.lower()
