"""A real browser for the tests of pages: headless Chromium, and what it complains about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

__all__ = ["SMALL", "needs_chromium", "no_sideways_scrolling", "opened", "picture"]

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PICTURES_ENV = "FLUXBEE_TEST_PICTURES"
"""A folder; when it is set, pages leave pictures there for people to look at."""

SMALL = {"width": 380, "height": 760}
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no chromium is installed")


@contextmanager
def opened(
    url: str, width: int = 1200, height: int = 900, *, scheme: str = "light", expected: tuple[str, ...] = ()
) -> Iterator[Page]:
    """The page at ``url``; fails at the end when its console complained of what is not ``expected``."""
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        yield page
        browser.close()
    assert [one for one in complaints if not any(text in one for text in expected)] == []


def picture(page: Page, name: str) -> None:
    """Leave a picture for people, where they asked for it."""
    folder = os.environ.get(PICTURES_ENV)
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def no_sideways_scrolling(page: Page) -> bool:
    """Whether the page fits the width of its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))
