"""What holds for the repository as a whole: documents, locks, modules and tests fit together.

A check here reads files and decides nothing by taste; what it finds is named with file and line.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from appliance import __version__
from appliance.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SKIPPED_FOLDERS = {".git", ".venv", "var", "dist", "work", "__pycache__", "target"}


def tracked_files() -> list[Path]:
    """What belongs to the repository: what git tracks; in an unpacked archive, what is there."""
    if (ROOT / ".git").exists():
        command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
        return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)
    ]


FILES = tracked_files()
PYTHON = [path for path in FILES if path.suffix == ".py"]
MODULES = [path for path in PYTHON if path.is_relative_to(ROOT / "appliance")]
PAGES = [path for path in FILES if path.suffix == ".md"]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- promises on paper -----------------------------------------------------------------------------------


def test_licence_version_and_changelog_agree():
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert PROJECT["license"] == "MIT"
    assert PROJECT["version"] == __version__
    assert re.search(rf"^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def without_code(text: str) -> str:
    """The page without code, line numbers kept."""
    text = re.sub(r"^( *)```.*?^\1```", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes from headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ +(.*)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(without_code(page.read_text()).splitlines(), 1):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            yield number, target


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_link_leads_somewhere(page):
    for line, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{shown(page)}:{line}: {target}"
        assert not anchor or anchor in anchors(there), f"{shown(page)}:{line}: no heading for {target}"


def test_every_page_can_be_found():
    linked = {
        (page.parent / target.partition("#")[0]).resolve() for page in PAGES for _, target in links(page)
    }
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            assert page in linked or page.parent in linked, f"no page links to {shown(page)}"


def code_of(text: str) -> Iterator[str]:
    """The lines of code blocks, and the pieces between backticks."""
    for block in re.findall(r"^ *```\w*[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", text)


def test_commands_on_paper_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    (verbs,) = (action.choices for action in build_parser()._actions if action.dest == "verb")
    for page in PAGES:
        for line in code_of(page.read_text()):
            if word := re.match(r"\s*make ([a-z-]+)", line):
                assert word[1] in targets, f"{shown(page)}: {line}"
            if word := re.match(r"\s*(?:\S*/)?fluxbee ([a-z-]+)", line):
                assert word[1] in verbs, f"{shown(page)}: {line}"


# --- nothing of where and how it was made ----------------------------------------------------------------

FOREIGN = (
    # Written in pieces, so that this file does not find itself.
    (
        "path of a build machine",
        re.compile(r"(?<![\w.$}])/(?:" + "work/(?:main|sha)" + "|root/[.a-z]|tmp/venv" + ")"),
    ),
    ("home folder", re.compile("/home/" + r"[a-z]+/")),
    (
        "package registry",
        re.compile("(?:(?<!--no-emit-)index" + "-url|py" + r"pi\.org|files\.python" + "hosted)"),
    ),
    ("unfinished work", re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME)\b")),
)


@pytest.mark.parametrize(("what", "pattern"), FOREIGN, ids=[what for what, _ in FOREIGN])
def test_no_file_tells_where_it_was_made(what, pattern):
    found = []
    for path in FILES:
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{shown(path)}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if pattern.search(line)
        ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_no_file_is_large():
    assert [shown(path) for path in FILES if path.stat().st_size > 2_000_000] == []


# --- modules and tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=shown)
def test_a_module_says_what_it_is_for_and_what_it_offers(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "no docstring"
    assigned = {
        target.id
        for node in tree.body
        for target in (node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)])
        if isinstance(target, ast.Name)
    }
    offers_something = any(
        isinstance(node, ast.stmt) and not isinstance(node, ast.Expr) for node in tree.body
    )
    assert "__all__" in assigned or not offers_something, "no __all__"


def test_every_test_is_collected():
    for path in PYTHON:
        if not path.is_relative_to(ROOT / "tests"):
            continue
        tree = ast.parse(path.read_text())
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        tests = [
            node.name for node in tree.body if isinstance(node, functions) and node.name.startswith("test_")
        ]
        if tests:
            assert path.name.startswith("test_"), f"{shown(path)} holds {tests[0]} and is never collected"
            assert (path.parent / "__init__.py").is_file(), f"{shown(path.parent)} is no package"


def test_scripts_are_well_formed_and_executable():
    scripts = [path for path in FILES if path.read_bytes().startswith((b"#!/bin/sh", b"#!/bin/bash"))]
    assert ROOT / ".ci" / "run" in scripts
    for path in scripts:
        shell = path.read_text().split("\n", 1)[0].removeprefix("#!")
        subprocess.run([shell, "-n", path], check=True)
        assert path.stat().st_mode & 0o111, f"{shown(path)} is not executable"


# --- dependencies ----------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, str]:
    """Version by name; every entry must be pinned and carry a hash."""
    text = (ROOT / "build" / name).read_text()
    entries = re.findall(
        r"^(\S+)==(\S+) \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE
    )
    plain = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(entries) == len(plain), f"{name}: an entry without a pin or a hash"
    return {canonicalize_name(entry[0]): entry[1] for entry in entries}


def test_locks_satisfy_the_project():
    runtime, development = locked("requirements.lock"), locked("dev.lock")
    extras = [line for extra in ("dev", "build") for line in PROJECT["optional-dependencies"][extra]]
    wanted = [(runtime, line) for line in PROJECT["dependencies"]]
    wanted += [(development, line) for line in (*PROJECT["dependencies"], *extras)]
    for lock, line in wanted:
        requirement = Requirement(line)
        version = lock.get(canonicalize_name(requirement.name))
        assert version is not None, f"{line} is not locked: make lock"
        assert version in requirement.specifier, f"{line} is locked as {version}: make lock"


def test_what_is_tested_is_what_ships():
    runtime, development = locked("requirements.lock"), locked("dev.lock")
    assert runtime.items() <= development.items()


def test_every_dependency_is_explained():
    page = (ROOT / "docs" / "dependencies.md").read_text().lower()
    rows = {word for row in re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE) for word in row.split(", ")}
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for line in (*PROJECT["dependencies"], *extras):
        name = Requirement(line).name.lower()
        assert name in rows, f"{name} has no row in docs/dependencies.md"
