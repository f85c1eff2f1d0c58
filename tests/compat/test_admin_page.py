"""The admin page in a real browser, on a real hive: what an operator does there, by mouse, keys and phone."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from appliance.testing.hive import HiveHarness

from ..chromium import SMALL, needs_chromium, no_sideways_scrolling, opened, picture
from .operator_box import NODE, SETTINGS, Box

pytestmark = [pytest.mark.process, pytest.mark.slow, needs_chromium]

ECHO = Path(__file__).resolve().parents[2] / "docs" / "examples" / "ai-echo"
SECTIONS = ("Overview", "Nodes", "Runtimes", "Routes & VPNs", "Messages", "Deployments")


@pytest.fixture(scope="module")
def box(module_hive_folder):
    with (
        HiveHarness(module_hive_folder, planes="apart", settings=SETTINGS) as running,
        Box.of(running) as box,
    ):
        for version in ("1.0.0", "1.1.0"):
            shutil.copytree(ECHO, box.install("ai.echo", version, NODE), dirs_exist_ok=True)
        yield box


@pytest.fixture
def page(box):
    with opened(str(box.client.base_url)) as page:
        yield page


def go(page: Page, section: str) -> None:
    page.get_by_role("link", name=section, exact=True).click()
    expect(page.locator("main h2").first).to_be_visible()


def row(page: Page, text: str):
    return page.locator("tr", has_text=text)


def spawn(page: Page, name: str, config: str = "") -> None:
    go(page, "Nodes")
    page.get_by_role("button", name="Spawn a node").click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Runtime").select_option("ai.echo")
    page.get_by_label("Configuration").fill(config)
    page.get_by_role("button", name="Spawn", exact=True).click()
    expect(row(page, f"{name}@").get_by_text("RUNNING")).to_be_visible()


def test_the_hive_at_a_glance(page, box):
    expect(page.locator("#health")).to_have_text("well")
    expect(page.locator("#hive-name")).to_have_text(box.hive)
    for plane in ("data", "control", "world"):
        expect(row(page, plane).get_by_text("ready")).to_be_visible()
    picture(page, "admin-overview")


def test_a_node_from_spawn_to_removal(page, box):
    spawn(page, "AI.echo.page", '{"prefix": "a: "}')
    picture(page, "admin-nodes")
    page.get_by_role("button", name=f"AI.echo.page@{box.hive}", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("ai.echo 1.1.0")).to_be_visible()
    expect(dialog.get_by_label("Configuration", exact=True)).to_have_value(re.compile('"prefix": "a: "'))
    expect(dialog.get_by_label("Log")).to_contain_text(re.compile("Z "))
    picture(page, "admin-node")
    dialog.get_by_label("Configuration", exact=True).fill('{"prefix": "b: "}')
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("the node was told")).to_be_visible()
    assert box.get(box.node("AI.echo.page", "/config"))["payload"]["config"]["prefix"] == "b: "
    dialog.get_by_label("Configuration", exact=True).fill("{broken")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The configuration is not JSON")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    page.get_by_role("button", name=f"Restart AI.echo.page@{box.hive}").click()
    expect(row(page, "AI.echo.page@").get_by_text("RUNNING")).to_be_visible()
    page.get_by_role("button", name=f"Kill AI.echo.page@{box.hive}").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert box.status("AI.echo.page")["lifecycle_state"] in ("RUNNING", "STARTING")
    page.get_by_role("button", name=f"Kill AI.echo.page@{box.hive}").click()
    page.get_by_role("dialog").get_by_role("button", name="Kill").click()
    expect(row(page, "AI.echo.page@").get_by_text("STOPPED")).to_be_visible()
    page.get_by_role("button", name=f"Start AI.echo.page@{box.hive}").click()
    expect(row(page, "AI.echo.page@").get_by_text("RUNNING")).to_be_visible()
    page.get_by_role("button", name=f"Kill AI.echo.page@{box.hive}").click()
    page.get_by_role("dialog").get_by_role("button", name="Kill").click()
    page.get_by_role("button", name=f"Remove AI.echo.page@{box.hive}").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(row(page, "AI.echo.page@")).to_have_count(0)


def test_a_name_that_is_taken_is_told_and_nothing_is_lost(box):
    with opened(str(box.client.base_url), expected=("500",)) as page:
        spawn(page, "AI.echo.taken")
        page.get_by_role("button", name="Spawn a node").click()
        page.get_by_label("Name", exact=True).fill("AI.echo.taken")
        page.get_by_label("Runtime").select_option("ai.echo")
        page.get_by_role("button", name="Spawn", exact=True).click()
        expect(page.get_by_text("NODE_ALREADY_EXISTS")).to_be_visible()
        expect(page.get_by_label("Name", exact=True)).to_have_value("AI.echo.taken")
    box.remove(f"AI.echo.taken@{box.hive}")


def test_runtimes_show_versions_and_give_up_old_ones(page, box):
    shutil.copytree(ECHO, box.install("ai.old", "0.1.0", NODE), dirs_exist_ok=True)
    box.install("ai.old", "0.2.0", NODE)
    go(page, "Runtimes")
    expect(row(page, "ai.old").get_by_text("ready", exact=True)).to_be_visible()
    page.get_by_role("button", name="ai.old").click()
    picture(page, "admin-runtime")
    row(page, "0.1.0").get_by_role("button", name="Remove").click()
    page.get_by_role("dialog", name="Remove ai.old 0.1.0?").get_by_role("button", name="Remove").click()
    expect(
        page.get_by_role("dialog", name="ai.old", exact=True).locator("tr", has_text="0.1.0")
    ).to_have_count(0)


def test_routes_and_vpns(page, box):
    go(page, "Routes & VPNs")
    page.get_by_label("Name or prefix").fill("AI.<b>sales</b>.")
    page.get_by_label("Action").select_option("DROP")
    page.get_by_role("button", name="Add").first.click()
    expect(page.get_by_text("AI.<b>sales</b>.", exact=True)).to_be_visible()
    page.get_by_label("Pattern", exact=True).fill("IO.")
    page.get_by_label("VPN id").fill("12")
    page.get_by_role("button", name="Add").last.click()
    expect(row(page, "IO.").get_by_text("12")).to_be_visible()
    picture(page, "admin-routes")
    page.get_by_role("button", name="Delete AI.<b>sales</b>.").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("AI.<b>sales</b>.", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Delete IO.").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No rule: every node is in VPN 0.")).to_be_visible()


def test_a_message_sent_from_the_page_appears_in_its_tap(page, box):
    spawn(page, "AI.echo.tapped")
    go(page, "Messages")
    page.get_by_label("Only messages of this node").fill(f"AI.echo.tapped@{box.hive}")
    page.get_by_role("button", name="Start").click()
    page.get_by_label("To", exact=True).fill(f"AI.echo.tapped@{box.hive}")
    deadline = time.monotonic() + 20
    lines = page.get_by_label("Messages", exact=True)
    while "hello" not in lines.inner_text() and time.monotonic() < deadline:
        page.get_by_role("button", name="Send").click()  # until the tap has begun
        page.wait_for_timeout(300)
    expect(lines).to_contain_text("hello")
    picture(page, "admin-messages")
    page.get_by_role("button", name="Stop").click()
    box.remove(f"AI.echo.tapped@{box.hive}")


def test_deployments(page, box):
    known = box.versions()["runtimes"]
    wanted = {"manifest_version": known["manifest_version"], "manifest_hash": known["manifest_hash"]}
    box.update(code=None, **wanted, runtime="ai.echo")
    go(page, "Deployments")
    expect(page.locator("tr", has_text="runtime").first).to_be_visible()
    picture(page, "admin-deployments")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(box, scheme):
    with opened(str(box.client.base_url), SMALL["width"], SMALL["height"], scheme=scheme) as page:
        for section in SECTIONS:
            go(page, section)
            page.wait_for_timeout(400)
            assert no_sideways_scrolling(page), section
            picture(page, f"admin-small-{scheme}-{section.split()[0].lower()}")


def test_it_works_without_a_mouse(page, box):
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.get_by_role("link", name="Nodes").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Spawn a node").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_trouble_is_shown_and_passes(box):
    with opened(str(box.client.base_url), expected=("503",)) as page:
        expect(page.locator("#health")).to_have_text("well")
        trouble = {"reasons": ["plane world is parked"]}
        page.route("**/health", lambda route: route.fulfill(status=503, json=trouble))
        expect(page.locator("#notice")).to_have_text("plane world is parked")
        expect(page.locator("#health")).to_have_text("needs attention")
        page.unroute("**/health")
        expect(page.locator("#health")).to_have_text("well")


def test_a_program_gets_no_page_and_a_browser_gets_its_policy(box):
    url = str(box.client.base_url)
    assert httpx.get(url, headers={"accept": "application/json"}).json() == {"error": "not_found"}
    response = httpx.get(url, headers={"accept": "text/html"})
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert "unsafe-inline" not in response.headers["content-security-policy"]
