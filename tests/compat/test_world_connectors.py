"""Connectors of a real hive over its door (``spec/flux-state.md §2.6, §2.7, §5``; AT-CON, AT-CS, CN-20)."""

from __future__ import annotations

import base64
import json
import stat
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from appliance.testing.hive import HiveHarness
from tests.compat.world_kit import ADMIN, http, world_hive
from tests.fake_web import Asked, Web, serving
from tests.github_fake import GithubFake

pytestmark = pytest.mark.process

HERE = {"connectors": {"allowed_hosts": ["127.0.0.1"]}}
FORMS = ["/api/connectors", "/api/connector-manager/connectors", "/connector-manager/api/connectors"]


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture(scope="module")
def provider(web: Web) -> Provider:
    return Provider(web)


class Provider:
    """An OAuth provider: gives a code to whoever asks, and tokens for a code with the right verifier."""

    def __init__(self, web: Web) -> None:
        self.base = web.base
        self.codes: dict[str, str] = {}
        self.answer: dict[str, object] | None = None
        web.on("/token", self._token)

    def authorize(self, location: str) -> str:
        """What the provider's page would redirect the browser to."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        assert query["client_id"] == "client"
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = f"code{len(self.codes)}"
        self.codes[code] = query["code_challenge"]
        return f"{query['redirect_uri']}?code={code}&state={query['state']}"

    def _token(self, asked: Asked) -> tuple[int, dict[str, str], object]:
        form = asked.form
        assert asked.headers["accept"] == "application/json"
        if self.answer is not None:
            return 200, {}, self.answer
        challenge = self.codes.pop(form["code"], None)
        proof = (
            base64.urlsafe_b64encode(sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        )
        if form["client_secret"] != "hush" or challenge != proof:
            return 400, {}, {"error": "invalid_grant"}
        return 200, {}, {"access_token": "ghp_right", "refresh_token": "again", "expires_in": 28800}


@pytest.fixture(scope="module")
def hive(web: Web) -> Iterator[HiveHarness]:
    settings = {
        "connectors": {"allowed_hosts": ["127.0.0.1"], "github_url": web.base},
        "oauth": {
            "callback_base_url": "http://box.example",
            "github": {
                "client_id": "client",
                "client_secret": "hush",
                "authorize_url": f"{web.base}/authorize",
                "token_url": f"{web.base}/token",
            },
        },
    }
    with world_hive(**settings) as hive:
        yield hive


@pytest.fixture
def client(hive: HiveHarness) -> Iterator[httpx.Client]:
    with http(hive) as client:
        yield client


def says(response: httpx.Response, status: int, words: str = "") -> None:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


def source(web: Web, path: str, **changes: object) -> dict[str, object]:
    return {
        "name": "Line 2 meter",
        "url": web.base + path,
        "poll_interval_secs": 1,
        "entity_key": "meter-2",
        "namespace": "plant",
        "auth_type": "none",
        "token": None,
        "flux_namespace_token": None,
        **changes,
    }


def properties(client: httpx.Client, entity: str) -> dict[str, object] | None:
    answer = client.get(f"/api/state/entities/{entity}")
    return answer.json()["properties"] if answer.status_code == 200 else None


def row(client: httpx.Client, source_id: str) -> dict[str, object]:
    listed = client.get("/api/connector-manager/connectors").json()
    return next(one for one in listed if one.get("source_id") == source_id)


# --- credentials (EP-60 to EP-63) ---------------------------------------------------------------------------


def test_the_four_connectors(client):
    """AT-CON-1, 2, 3, 5, AT-CS-1 to 5."""
    listed = client.get("/api/connectors").json()
    assert list(listed) == ["connectors"]
    assert [one["name"] for one in listed["connectors"]] == ["github", "gmail", "linkedin", "calendar"]
    assert {"name": "gmail", "enabled": False, "status": "not_configured"} in listed["connectors"]
    for name, interval in (("github", 300), ("gmail", 60), ("linkedin", 600), ("calendar", 300)):
        detail = client.get(f"/api/connectors/{name}").json()
        assert detail == {
            "name": name,
            "enabled": False,
            "status": "not_configured",
            "poll_interval_seconds": interval,
        }
    says(client.get("/api/connectors/invalid"), 404, "Connector 'invalid' not found")


def test_a_token_is_stored_shown_nowhere_and_removed(client, hive):
    """AT-CON-6 to 11, SD-18, DF-20, DF-41."""
    says(client.post("/api/connectors/invalid/token", json={"token": "t"}), 404, "'invalid' not found")
    says(client.delete("/api/connectors/gmail/token"), 404, "No credentials found for connector 'gmail'")
    token = "ya29-a-secret-token"
    for _ in range(2):  # an upsert
        answer = client.post("/api/connectors/gmail/token", json={"token": token})
        assert (answer.status_code, answer.json()) == (200, {"success": True})
    listed = client.get("/api/connectors").json()["connectors"]
    assert {"name": "gmail", "enabled": True, "status": "configured"} in listed
    assert client.get("/api/connectors/gmail").json()["status"] == "configured"
    stored = b"".join(
        path.read_bytes() for path in hive.paths.lib.rglob("*") if path.is_file() and path.stat().st_size
    )
    assert b"gmail" in stored
    assert token.encode() not in stored
    assert token not in hive.log.read_text()
    assert stat.S_IMODE(hive.paths.world_keys.stat().st_mode) == 0o600
    answer = client.delete("/api/connectors/gmail/token")
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    says(client.delete("/api/connectors/gmail/token"), 404)


def test_bodies_and_methods(client):
    """HT-03, HT-04."""
    path = "/api/connectors/github/token"
    says(client.post(path, content=b"{}"), 415)
    says(client.post(path, json={"tokn": "x"}), 422)
    says(client.post(path, json={"token": " "}), 400)
    says(client.post(path, json={"token": "a\nb"}), 400)
    says(client.post(path, content=b"{", headers={"content-type": "application/json"}), 400)
    says(client.put(path, json={"token": "x"}), 404)
    says(client.get("/api/connectors/github/nonsense"), 404)


# --- sources (CN-20 to CN-26, CN-30) ------------------------------------------------------------------------


@pytest.mark.parametrize("mount", FORMS)
def test_a_source_under_every_path(client, web, mount):
    path = f"/energy{FORMS.index(mount)}"
    web.on(path, {"kwh": 4.2})
    key = f"meter-{FORMS.index(mount)}"
    made = client.post(f"{mount}/generic", json=source(web, path, entity_key=key))
    assert made.status_code == 201, made.text
    source_id = made.json()["source_id"]
    until(lambda: properties(client, f"plant/{key}") == {"kwh": 4.2})
    found = row(client, source_id)
    assert (found["type"], found["enabled"], found["status"]) == ("generic", True, "running")
    assert found["last_started"].endswith("+00:00")
    event = client.get("/api/events", params={"entity": f"plant/{key}"}).json()[0]
    assert (event["stream"], event["source"]) == ("generic", f"bento.{source_id}")
    assert event["key"] == f"plant/{key}"
    for _ in range(2):  # idempotent
        gone = client.delete(f"{mount}/generic/{source_id}")
        assert (gone.status_code, gone.content) == (204, b"")
    assert properties(client, f"plant/{key}") == {"kwh": 4.2}, "what it published stays"


def test_the_managers_list_is_an_array_with_the_built_in_first(client):
    for mount in FORMS[1:]:
        listed = client.get(mount).json()
        assert listed[0]["name"] == "github"
        assert listed[0]["type"] == "builtin"
        assert listed[0]["enabled"] is False
        assert listed[0]["status"] == "stopped"


def test_a_mapping_and_a_key(client, web):
    def keyed(asked: Asked) -> tuple[int, dict[str, str], object]:
        if asked.headers.get("x-api-key") != "hush":
            return 401, {}, {}
        return 200, {}, [{"reading": {"value": 7, "unit": "V"}}]

    web.on("/keyed", keyed)
    body = source(
        web,
        "/keyed",
        entity_key="keyed",
        auth_type={"api_key_header": "X-API-Key"},
        token="hush",
        mapping={"volts": "[0].reading.value"},
    )
    made = client.post("/api/connectors/generic", json=body).json()["source_id"]
    until(lambda: properties(client, "plant/keyed") == {"volts": 7})
    assert "hush" not in client.get("/api/connector-manager/connectors").text
    client.delete(f"/api/connectors/generic/{made}")


def test_an_error_is_honest_and_cleared_by_a_success(client, web):
    """DF-39, CN-42 [ours]."""
    web.on("/flaky", {"message": "down"}, 500)
    made = client.post("/api/connectors/generic", json=source(web, "/flaky", entity_key="flaky")).json()[
        "source_id"
    ]
    until(lambda: row(client, made)["status"] == "error")
    assert "500" in row(client, made)["last_error"]
    web.on("/flaky", {"ok": True})
    until(lambda: row(client, made)["status"] == "running")
    assert "last_error" not in row(client, made)
    client.delete(f"/api/connectors/generic/{made}")


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://127.0.0.2/", 403),
        ("http://[::1]/", 403),
        ("http://[::ffff:169.254.169.254]/latest", 403),
        ("http://169.254.169.254/latest/meta-data/", 403),
        ("http://0.0.0.0/", 403),
        ("http://2130706433/", 400),
        ("http://0177.0.0.1/", 400),
        ("http://0x7f.1/", 400),
        ("http://meter.lan@127.0.0.1/", 400),
        ("file:///etc/passwd", 400),
        ("gopher://127.0.0.1:3000/_POST", 400),
        ("nonsense", 400),
    ],
)
def test_addresses_that_are_not_asked(client, web, url, status):
    """DF-18, CN-44."""
    says(client.post("/api/connectors/generic", json=source(web, "/", url=url)), status)


def test_a_redirect_to_metadata_is_an_error(client, web):
    web.on("/redirect", b"", 302, Location="http://169.254.169.254/latest/meta-data/")
    made = client.post("/api/connectors/generic", json=source(web, "/redirect", entity_key="r")).json()[
        "source_id"
    ]
    until(lambda: row(client, made)["status"] == "error")
    assert "redirects are not followed" in row(client, made)["last_error"]
    client.delete(f"/api/connectors/generic/{made}")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"poll_interval_secs": 0}, 400),
        ({"poll_interval_secs": "1"}, 422),
        ({"entity_key": ""}, 400),
        ({"namespace": "a/b"}, 400),
        ({"auth_type": "digest", "token": "x"}, 400),
        ({"auth_type": 7}, 422),
        ({"mapping": {"a": "["}}, 400),
    ],
)
def test_sources_that_are_none(client, web, change, status):
    says(client.post("/api/connectors/generic", json=source(web, "/", **change)), status)


def test_named_sources_are_not_run_unless_listed(client):
    """CN-23 to CN-26, DF-18: nothing that a request names is executed; more in ``test_world_taps.py``."""
    body = {
        "tap_name": "tap-csv",
        "namespace": "plant",
        "entity_key_field": "id",
        "config_json": "{}",
        "poll_interval_secs": 60,
    }
    for mount in FORMS:
        assert client.get(f"{mount}/taps").json() == []
        says(client.post(f"{mount}/named", json=body), 403, "world.taps")
        assert client.delete(f"{mount}/named/x").status_code == 204
        says(client.post(f"{mount}/named/x/sync"), 404, "Named source x not found")


def test_sources_survive_a_restart(web):
    web.on("/again", {"n": 1})
    with world_hive(**HERE) as hive:
        with http(hive) as client:
            made = client.post("/api/connectors/generic", json=source(web, "/again")).json()["source_id"]
            client.post("/api/connectors/calendar/token", json={"token": "t"})
            until(lambda: properties(client, "plant/meter-2"))
        hive.stop()
        asked = web.count("/again")
        hive.start()
        with http(hive) as client:
            until(lambda: web.count("/again") > asked)
            assert row(client, made)["name"] == "Line 2 meter"
            assert client.get("/api/connectors/calendar").json()["enabled"]


# --- GitHub (CN-10 to CN-16) --------------------------------------------------------------------------------


def test_github_by_token(client, web):
    GithubFake(web)
    assert web.count("/user/repos") == 0, "without a credential nobody is asked"
    client.post("/api/connectors/github/token", json={"token": "ghp_wrong"})
    until(lambda: client.get("/api/connector-manager/connectors").json()[0]["status"] == "error")
    assert "401" in client.get("/api/connectors/github").json()["last_error"]
    client.post("/api/connectors/github/token", json={"token": "ghp_right"})
    until(lambda: properties(client, "github/issue/octo/engine/1"))
    until(lambda: client.get("/api/connector-manager/connectors").json()[0]["status"] == "running")
    assert properties(client, "github/repo/octo/engine")["stars"] == 3
    assert client.get("/api/connectors/github").json()["last_poll"].endswith("+00:00")
    client.delete("/api/connectors/github/token")
    assert client.get("/api/connector-manager/connectors").json()[0]["status"] == "stopped"


# --- OAuth (EP-70, EP-71, DF-36) ----------------------------------------------------------------------------


def test_a_login(client, web, provider):
    GithubFake(web)
    started = client.get("/api/connectors/github/oauth/start")
    assert started.status_code == 307
    assert started.headers["location"].startswith(f"{web.base}/authorize?client_id=client")
    assert "%20" in started.headers["location"]
    back = provider.authorize(started.headers["location"])
    assert back.startswith("http://box.example/api/connectors/github/oauth/callback?")
    callback = back.removeprefix("http://box.example")
    answer = client.get(callback)
    assert (answer.status_code, answer.json()) == (
        200,
        {"success": True, "message": "Successfully connected github", "connector": "github"},
    )
    until(lambda: properties(client, "github/notification/77"))
    says(client.get(callback), 401, "Invalid or expired OAuth state (possible CSRF attack)")
    client.delete("/api/connectors/github/token")


def test_callbacks_that_are_none(client, web, provider):
    path = "/api/connectors/github/oauth/callback"
    says(client.get(path), 400, "Missing 'code' parameter")
    says(client.get(f"{path}?code=c"), 400, "Missing 'state' parameter")
    says(client.get(f"{path}?code=c&state=x"), 401, "possible CSRF")
    says(
        client.get(f"{path}?error=access_denied&error_description=not+now"),
        400,
        "OAuth authorization failed: access_denied - not now",
    )
    says(client.get(f"{path}?error=x"), 400, "x - Unknown error")
    for other, words in (("gmail", "Connector name mismatch"),):
        location = client.get("/api/connectors/github/oauth/start").headers["location"]
        state = parse_qs(urlsplit(location).query)["state"][0]
        says(client.get(f"/api/connectors/{other}/oauth/callback?code=c&state={state}"), 400, words)
    assert client.get("/api/connectors/github").json()["enabled"] is False


def test_what_a_provider_refuses(client, web, provider):
    def callback() -> str:
        location = client.get("/api/connectors/github/oauth/start").headers["location"]
        return provider.authorize(location).removeprefix("http://box.example")

    says(client.get(callback().replace("code=code", "code=other")), 400, "invalid_grant - Unknown error")
    provider.answer = {"error": "bad_verification_code", "error_description": "expired"}
    says(client.get(callback()), 400, "OAuth authorization failed: bad_verification_code - expired")
    provider.answer = {"nonsense": True}
    says(client.get(callback()), 502, "Failed to exchange authorization code: ")
    provider.answer = None
    assert client.get("/api/connectors/github").json()["enabled"] is False


def test_what_is_not_configured(client):
    says(
        client.get("/api/connectors/linkedin/oauth/start"),
        500,
        "OAuth not configured for connector 'linkedin'. Set FLUX_OAUTH_LINKEDIN_CLIENT_ID and"
        " FLUX_OAUTH_LINKEDIN_CLIENT_SECRET environment variables.",
    )
    says(client.get("/api/connectors/nobody/oauth/start"), 404, "Connector 'nobody' not found")
    says(client.get("/api/connectors/github/oauth/nonsense"), 404)


# --- who may (CN-31, HT-30, DF-19) --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(web: Web) -> Iterator[HiveHarness]:
    settings = {
        "connectors": {"allowed_hosts": ["127.0.0.1"], "github_url": web.base},
        "oauth": {
            "github": {
                "client_id": "client",
                "client_secret": "hush",
                "authorize_url": f"{web.base}/authorize",
                "token_url": f"{web.base}/token",
            }
        },
    }
    with world_hive(auth_enabled=True, **settings) as hive:
        yield hive


def namespace(hive: HiveHarness, name: str) -> str:
    with http(hive, ADMIN) as client:
        return client.post("/api/namespaces", json={"name": name}).json()["token"]


def test_with_auth_on_credentials_belong_to_namespaces(guarded):
    ours, theirs = namespace(guarded, "ours"), namespace(guarded, "theirs")
    with http(guarded) as nobody, http(guarded, "made-up") as guesser:
        says(nobody.get("/api/connectors"), 401, "Invalid token: Authorization token not provided")
        says(guesser.get("/api/connectors"), 401, "Invalid token")
        says(guesser.post("/api/connectors/gmail/token", json={"token": "t"}), 401)
    with http(guarded, ours) as our, http(guarded, theirs) as their:
        assert our.post("/api/connectors/gmail/token", json={"token": "t"}).status_code == 200
        assert our.get("/api/connectors/gmail").json()["enabled"]
        assert not their.get("/api/connectors/gmail").json()["enabled"]
        says(their.delete("/api/connectors/gmail/token"), 404)
    journal = b"".join(
        path.read_bytes()
        for path in (guarded.paths.journals / "world.connectors").rglob("*")
        if path.is_file()
    )
    assert b"ns_" in journal
    assert ours.encode() not in journal


def test_with_auth_on_sources_are_the_administrators(guarded, web):
    web.on("/guarded", {"n": 1})
    token = namespace(guarded, "third")
    body = source(web, "/guarded")
    with http(guarded) as nobody, http(guarded, token) as owner, http(guarded, ADMIN) as admin:
        assert nobody.get("/api/connector-manager/connectors").status_code == 200
        says(nobody.post("/api/connectors/generic", json=body), 401, "Admin token required")
        says(owner.post("/api/connectors/generic", json=body), 401)
        says(owner.delete("/api/connectors/generic/x"), 401)
        made = admin.post("/api/connectors/generic", json=body)
        assert made.status_code == 201
        until(lambda: properties(admin, "plant/meter-2") == {"n": 1})
        admin.delete(f"/api/connectors/generic/{made.json()['source_id']}")


def test_with_auth_on_a_browser_starts_by_a_link(guarded, web, provider):
    GithubFake(web)
    token = namespace(guarded, "fourth")
    with http(guarded) as browser, http(guarded, token) as owner:
        says(browser.get("/api/connectors/github/oauth/start"), 401)
        says(browser.post("/api/connectors/github/oauth/link"), 401)
        link = owner.post("/api/connectors/github/oauth/link").json()
        assert link["expires_in"] == 600
        says(browser.get(link["url"].replace("ticket=", "ticket=x")), 401, "used already")
        started = browser.get(link["url"])
        assert started.status_code == 307
        says(browser.get(link["url"]), 401, "used already")
        callback = provider.authorize(started.headers["location"]).removeprefix("http://localhost:3000")
        assert browser.get(callback).status_code == 200
        assert owner.get("/api/connectors/github").json()["enabled"]
        owner.delete("/api/connectors/github/token")


def test_a_page_of_another_origin_adds_nothing(client, web):
    """DF-35."""
    headers = {"origin": "http://evil.example"}
    says(client.post("/api/connectors/generic", json=source(web, "/"), headers=headers), 403)
    says(client.post("/api/connectors/github/token", json={"token": "t"}, headers=headers), 403)


# --- damage, and the box itself -----------------------------------------------------------------------------


def test_without_its_keys_the_world_serves_and_says_why():
    """AT-CON-8, AT-CON-12."""
    with world_hive() as hive:
        hive.stop()
        hive.paths.world_keys.write_text("nonsense")
        hive.start()
        with http(hive) as client:
            assert client.get("/api/state/entities").json() == []
            says(client.post("/api/connectors/github/token", json={"token": "t"}), 500, "not available")
            says(client.delete("/api/connectors/github/token"), 500)
            assert client.get("/api/connectors").json()["connectors"][0]["status"] == "not_configured"
        assert "WORLD_CONNECTORS_OFF" in hive.log.read_text()


def test_a_fresh_box_tells_of_itself():
    with world_hive(sysinfo={"enabled": True}) as hive, http(hive) as client:
        until(lambda: properties(client, "box/motherbee"))
        found = properties(client, "box/motherbee")
        assert found["memory_mb"] > 0
        assert found["uptime_s"] > 0
        assert 0 <= found["disk_percent"] <= 100


# --- copies -------------------------------------------------------------------------------------------------


def test_backup_and_restore(client, hive):
    admin = {"authorization": f"Bearer {ADMIN}"}
    for _ in range(3):
        client.post(
            "/api/events",
            json={"stream": "s", "source": "s", "payload": {"entity_id": "kept", "properties": {"a": 1}}},
        )
    says(client.get("/api/admin/backup"), 401, "Admin token required")
    says(client.post("/api/admin/restore", content=b"x"), 401, "Admin token required")
    copy = client.get("/api/admin/backup", headers=admin)
    assert (copy.status_code, copy.headers["content-type"]) == (200, "application/octet-stream")
    client.post(
        "/api/events",
        json={"stream": "s", "source": "s", "payload": {"entity_id": "later", "properties": {"a": 1}}},
    )
    broken = copy.content[:-1] + bytes([copy.content[-1] ^ 1])
    for content, words in (
        (b"nonsense", "not a backup"),
        (copy.content[:-9], "too early"),
        (broken, "match"),
    ):
        answer = client.post("/api/admin/restore", content=content, headers=admin)
        assert answer.status_code >= 400
        assert words in answer.json()["error"]
        assert properties(client, "later") == {"a": 1}, "all or nothing"
    answer = client.post("/api/admin/restore", content=copy.content, headers=admin)
    assert answer.status_code == 200
    assert answer.json()["restored"] is True
    assert properties(client, "kept") == {"a": 1}
    assert properties(client, "later") is None
    assert list(hive.paths.spool.iterdir()) == []
    assert json.loads(client.get("/api/admin/config").text)["rate_limit_enabled"] is True
