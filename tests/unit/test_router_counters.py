"""Every counter that the router can count is explained in ``docs/reference/router-counters.md``."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "appliance" / "wire" / "codec.py", *sorted((ROOT / "appliance" / "router").glob("*.py"))]
COUNTED = [
    re.compile(pattern)
    for pattern in (
        r'counts\["([a-z_.]+)"\]',
        r'reject\([a-z]+, "([a-z_.]+)"\)',
        r'RejectedFrame\("([a-z_0-9]+)"',
    )
]
CLOSED = re.compile(r'close\([a-z]+, ((?:"[a-z_]+"|[a-z. =!A-Z_]| if | else )+)\)')


def counters() -> set[str]:
    found: set[str] = set()
    for path in SOURCES:
        text = path.read_text()
        for pattern in COUNTED:
            found |= set(pattern.findall(text))
        for reasons in CLOSED.findall(text):
            found |= {f"closed.{reason}" for reason in re.findall(r'"([a-z_]+)"', reasons)}
    greeting = (ROOT / "appliance" / "router" / "greeting.py").read_text()
    found |= {f"hello.{problem}" for problem in re.findall(r'return "([a-z_]+)"', greeting)}
    return found


def test_every_counter_is_explained_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "router-counters.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in re.findall(r"`([a-z_0-9.A-Z]+)`", row)}
    assert {"bad_utf8", "hello.name", "closed.reset", "lost_unsent"} <= counters()
    assert counters() <= explained
    assert {name for name in explained - counters() if not name.startswith("unreachable.")} == set()
