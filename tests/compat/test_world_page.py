"""The world page in a real browser, on a real hive: what people see of the world, live (UI-10 to UI-23)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from appliance.testing.hive import HiveHarness

from ..chromium import SMALL, needs_chromium, no_sideways_scrolling, opened, picture
from ..fake_web import Web, serving
from .world_kit import ADMIN, event, http, world_hive

pytestmark = [pytest.mark.process, pytest.mark.slow, needs_chromium]

EVIL_ID = 'lab/<img src=x onerror="document.title=1">'
EVIL_VALUE = '<script>document.title=2</script><img src=x onerror="document.title=3">"\'`${7*7}'


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture(scope="module")
def hive() -> Iterator[HiveHarness]:
    with world_hive(connectors={"allowed_hosts": ["127.0.0.1"]}) as hive:
        with http(hive) as client:
            for watts in (3, 9, 4, 7, 5):
                publish(client, event("lab/lamp-1", on=True, watts=watts, status="healthy"))
            publish(client, event("plant/pump-7", pressure_bar=4.2, state="running", mode={"auto": True}))
            publish(client, event("room1:door", open=False))
        yield hive


@pytest.fixture
def client(hive: HiveHarness) -> Iterator[httpx.Client]:
    with http(hive) as client:
        yield client


@pytest.fixture
def page(hive: HiveHarness) -> Iterator[Page]:
    with opened(hive.world_url) as page:
        expect(page.locator("#link")).to_have_text("Live")
        yield page


def publish(client: httpx.Client, what: dict[str, object]) -> None:
    assert client.post("/api/events", json=what).status_code == 200


def row(page: Page, text: str):
    return page.locator("#entities tbody tr", has_text=text)


def test_what_is(page):
    expect(row(page, "lab/lamp-1")).to_contain_text("watts 5")
    expect(row(page, "plant/pump-7")).to_contain_text('{"auto":true}')
    expect(page.locator("#strip")).to_contain_text("subscribers")
    assert page.title() == "World state"
    picture(page, "world")


def test_what_changes_shows_without_a_reload(page, client):
    publish(client, event("lab/new", seen="now"))
    expect(row(page, "lab/new")).to_contain_text("now")
    expect(page.locator("#stream")).to_contain_text("lab/new  seen = now")
    client.delete("/api/state/entities/lab%2Fnew")
    expect(row(page, "lab/new")).to_have_count(0)
    expect(page.locator("#stream")).to_contain_text("lab/new  deleted")


def test_what_is_published_is_text_and_nothing_else(page, client):
    """DF-43, UI-23."""
    evil = event(EVIL_ID, **{"note": EVIL_VALUE, "<b>name</b>": 1, "status": "<b>bold</b>"})
    publish(client, evil)
    expect(row(page, EVIL_ID)).to_contain_text(EVIL_VALUE)
    expect(row(page, EVIL_ID)).to_contain_text("<b>name</b> 1")
    expect(page.locator("#stream")).to_contain_text(EVIL_ID)
    page.get_by_role("button", name=EVIL_ID).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=EVIL_ID)).to_be_visible()
    expect(dialog).to_contain_text(EVIL_VALUE)
    dialog.get_by_role("button", name="Close").click()
    page.get_by_label("Filter by id or value").fill("<img")
    expect(row(page, EVIL_ID)).to_have_count(1)
    page.reload()
    expect(row(page, EVIL_ID)).to_contain_text(EVIL_VALUE)
    assert page.locator("#entities img, #entities script, #stream img").count() == 0
    assert page.title() == "World state"
    client.post("/api/state/entities/delete", json={"entity_ids": [EVIL_ID]})


def test_filter_and_groups(page):
    page.get_by_label("Filter by id or value").fill("PRESSURE")
    expect(page.locator("#entities tbody tr")).to_have_count(1)
    expect(row(page, "plant/pump-7")).to_be_visible()
    page.get_by_label("Filter by id or value").fill("nobody")
    expect(page.get_by_text("Nothing fits the filter.")).to_be_visible()
    page.get_by_label("Filter by id or value").fill("")
    groups = page.get_by_role("group", name="Groups")
    groups.get_by_role("button", name="room1:").click()
    expect(page.locator("#entities tbody tr")).to_have_count(1)
    expect(groups.get_by_role("button", name="room1:")).to_have_attribute("aria-pressed", "true")
    groups.get_by_role("button", name="all").click()
    expect(row(page, "lab/lamp-1")).to_be_visible()


def test_one_entity_with_its_history(page):
    page.get_by_role("button", name="lab/lamp-1", exact=True).click()
    dialog = page.get_by_role("dialog")
    spark = dialog.get_by_role("img", name="watts: 5 values from 3 to 9")
    expect(spark).to_be_visible()
    expect(dialog.locator("tbody tr", has_text='"watts":9')).to_have_count(1)
    picture(page, "world-entity")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_a_click_survives_what_happens_meanwhile(page, client):
    publish(client, event("storm/a", n=0))
    name = page.get_by_role("button", name="storm/a", exact=True)
    name.hover()
    page.mouse.down()
    for number in range(1, 6):
        publish(client, event("storm/a", n=number))
        publish(client, event(f"storm/b{number}", n=number))
    expect(row(page, "storm/a")).to_contain_text("n 5")
    expect(row(page, "storm/b5")).to_be_visible()
    page.mouse.up()
    expect(page.get_by_role("dialog").get_by_role("heading", name="storm/a")).to_be_visible()
    page.keyboard.press("Escape")
    name.focus()
    publish(client, event("storm/0", n=1))
    expect(row(page, "storm/0")).to_be_visible()
    expect(name).to_be_focused()
    client.post("/api/state/entities/delete", json={"prefix": "storm/"})
    expect(row(page, "storm/")).to_have_count(0)


def test_what_changes_while_the_list_is_on_its_way(hive, client):
    publish(client, event("race/a", n=1))
    publish(client, event("race/b", n=1))
    with opened("about:blank") as page:

        def late(route: Route) -> None:
            old = route.fetch()
            publish(client, event("race/a", n=2))
            client.delete("/api/state/entities/race%2Fb")
            time.sleep(0.3)  # the feed overtakes the list
            route.fulfill(response=old)

        page.route("**/api/state/entities", late)
        page.goto(hive.world_url)
        expect(row(page, "race/a")).to_contain_text("n 2")
        expect(row(page, "race/b")).to_have_count(0)
    client.delete("/api/state/entities/race%2Fa")


def test_publishing(page, client):
    form = page.locator("#publish")
    form.get_by_label("Entity").fill('lab/a "quoted" one')
    form.get_by_label("Properties").fill("nonsense")
    form.get_by_role("button", name="Publish").click()
    expect(page.get_by_text("not JSON")).to_be_visible()
    form.get_by_label("Properties").fill('{"level": 7}')
    form.get_by_role("button", name="Publish").click()
    expect(row(page, 'lab/a "quoted" one')).to_contain_text("level 7")
    page.get_by_role("button", name='lab/a "quoted" one').click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").last.get_by_role("button", name="Delete").click()
    expect(row(page, "quoted")).to_have_count(0)


def test_a_source_from_adding_to_removing(page, client, web):
    web.on("/meter", {"kwh": 4.2, "phases": [{"u": 231}, {"u": 229}], "serial": "x"})
    section = page.locator("section", has=page.get_by_role("heading", name="Connectors"))
    expect(section.locator("tr", has_text="github")).to_contain_text("not connected")
    section.get_by_role("button", name="Add a source").click()
    dialog = page.get_by_role("dialog")
    for label, value in (
        ("Name", "Line 2 meter"),
        ("Address", f"{web.base}/meter"),
        ("Namespace", "plant"),
        ("Entity", "meter-2"),
        ("Every (seconds)", "1"),
        ("Values (all of the document when empty)", "kwh = kwh, volts=phases[1].u"),
    ):
        dialog.get_by_label(label, exact=True).fill(value)
    picture(page, "world-source")
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(row(page, "plant/meter-2")).to_contain_text("kwh 4.2volts 229")
    source = section.locator("tr", has_text="Line 2 meter")
    expect(source).to_contain_text("running")
    picture(page, "world-connectors")
    source.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(source).to_have_count(0)


def test_an_address_that_is_refused_is_told(hive):
    with opened(hive.world_url, expected=("403",)) as page:
        page.get_by_role("button", name="Add a source").click()
        dialog = page.get_by_role("dialog")
        for label, value in (
            ("Name", "metadata"),
            ("Address", "http://169.254.169.254/latest"),
            ("Namespace", "plant"),
            ("Entity", "x"),
        ):
            dialog.get_by_label(label, exact=True).fill(value)
        dialog.get_by_role("button", name="Add", exact=True).click()
        expect(page.get_by_text("not an address that may be asked")).to_be_visible()


def test_a_token_for_a_connector(page, client):
    section = page.locator("section", has=page.get_by_role("heading", name="Connectors"))
    section.get_by_role("button", name="Connect gmail").click()
    page.get_by_role("dialog").get_by_label("Token").fill("ya29")
    page.get_by_role("dialog").get_by_role("button", name="Connect").click()
    expect(section.get_by_role("button", name="Disconnect gmail")).to_be_visible()
    section.get_by_role("button", name="Disconnect gmail").click()
    expect(section.get_by_role("button", name="Connect gmail")).to_be_visible()


def test_a_login_goes_to_the_provider(web):
    web.on("/authorize", {"who": "are you"})
    client = {"client_id": "client", "client_secret": "hush", "authorize_url": f"{web.base}/authorize"}
    with (
        world_hive(oauth={"github": client}) as hive,
        opened(hive.world_url, expected=("500",)) as page,
    ):
        page.get_by_role("button", name="Connect github").click()
        page.get_by_role("button", name="Log in instead").click()
        with page.context.expect_page() as other:
            page.get_by_role("link", name="Continue at github").click()
        other.value.wait_for_url(f"{web.base}/authorize?client_id=client*code_challenge*")
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.get_by_role("button", name="Connect gmail").click()
        page.get_by_role("button", name="Log in instead").click()
        expect(page.get_by_text("OAuth not configured for connector 'gmail'")).to_be_visible()
        picture(page, "world-token")


def test_limits_need_the_admin_token(hive):
    with opened(hive.world_url, expected=("401",)) as page:
        field = page.get_by_label("Events per namespace and minute")
        expect(field).to_have_value("10000")
        field.fill("9000")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Unauthorized")).to_be_visible()
        page.get_by_role("button", name="Token", exact=True).click()
        page.get_by_role("dialog").get_by_label("Token").fill(ADMIN)
        page.get_by_role("dialog").get_by_role("button", name="Use it").click()
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("saved")).to_be_visible()
        page.reload()
        expect(page.get_by_label("Events per namespace and minute")).to_have_value("9000")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_sticks_out(hive, client, scheme):
    publish(client, event("lab/" + "long-name-" * 12, value="x" * 400))
    with opened(hive.world_url, SMALL["width"], SMALL["height"], scheme=scheme) as page:
        expect(row(page, "long-name")).to_be_visible()
        assert no_sideways_scrolling(page)
        picture(page, f"world-phone-{scheme}")
        page.get_by_role("button", name="lab/lamp-1", exact=True).click()
        expect(page.get_by_role("dialog").locator("svg").first).to_be_visible()
        assert no_sideways_scrolling(page)
        picture(page, f"world-phone-entity-{scheme}")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Add a source").click()
        assert no_sideways_scrolling(page)
    client.post("/api/state/entities/delete", json={"prefix": "lab/long-name-"})


def test_it_comes_back_after_the_box_did():
    with world_hive() as hive, opened(hive.world_url, expected=("WebSocket", "ERR_")) as page:
        expect(page.locator("#link")).to_have_text("Live")
        expect(page.get_by_text("Nothing yet. Publish the first event below.")).to_be_visible()
        hive.stop()
        expect(page.locator("#link")).to_have_text("Reconnecting…")
        hive.start()
        with http(hive) as client:
            publish(client, event("lab/while-away", a=1))
        expect(row(page, "lab/while-away")).to_be_visible()
        expect(page.locator("#link")).to_have_text("Live")


def test_the_policy_of_the_page(client):
    answer = client.get("/", headers={"accept": "text/html"})
    policy = answer.headers["content-security-policy"]
    assert re.search(r"default-src 'self'(;|$)", policy)
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|https?://(?!www\.w3\.org/)", answer.text)
