"""Pages are served from memory, ask again cheaply, and hold nothing that a browser would fetch elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.requests import Request

import appliance.http.pages as pages
from appliance.http.pages import Page, wants_html

HTTP = Path(pages.__file__).parent
FOLDERS = [HTTP / "admin" / "page", HTTP / "world" / "page"]


def request(headers: dict[str, str] | None = None) -> Request:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": raw})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)
def test_every_file_that_a_page_names_is_there(folder: Path) -> None:
    page = Page(folder)
    named = set(re.findall(r'(?:src|href)="/page/([^"]+)"', (folder / "index.html").read_text()))
    assert named
    for name in sorted(page.names):
        response = page.file(name, request())
        assert response is not None
        named |= set(re.findall(r'from "\./([^"]+)"', bytes(response.body).decode()))
    assert named <= page.names


@pytest.mark.parametrize("folder", [*FOLDERS, HTTP / "page"], ids=lambda folder: folder.parent.name)
def test_pages_hold_no_markup_from_data_and_nothing_from_elsewhere(folder: Path) -> None:
    for path in folder.iterdir():
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), path
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        if path.suffix == ".html":
            assert not re.search(r"<script(?![^>]*src=)", text), path
            assert not re.search(r"\son\w+=|style=", text), path


def test_a_file_that_did_not_change_is_not_sent_again() -> None:
    page = Page(FOLDERS[0])
    first = page.index(request())
    assert first.status_code == 200
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    again = page.index(request({"if-none-match": first.headers["etag"]}))
    assert (again.status_code, again.body) == (304, b"")


def test_a_page_serves_its_own_files_only() -> None:
    page = Page(FOLDERS[0])
    for name in ("index.html/..", "../pages.py", "", "nothing.js", ".."):
        assert page.file(name, request()) is None


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("", False),
        ("TEXT/HTML;q=0.9", True),
    ],
)
def test_browsers_get_the_page_and_programs_do_not(accept: str, html: bool) -> None:
    assert wants_html(accept) is html
