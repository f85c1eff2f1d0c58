"""Every code that the program can log is explained in ``docs/reference/log-codes.md``, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOGGING = {"warning", "error", "exception"}


def logged_codes():
    for path in (ROOT / "appliance").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in LOGGING and ast.unparse(node.func.value).endswith("log"):
                for keyword in node.keywords:
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                        yield str(keyword.value.value)


def explained_codes():
    text = (ROOT / "docs" / "reference" / "log-codes.md").read_text()
    return {
        code
        for row in re.findall(r"^\| (`.*?`) \|", text, re.M)
        for code in re.findall(r"`([A-Z_0-9]+)`", row)
    }


def test_every_logged_code_is_explained():
    codes = set(logged_codes())
    assert len(codes) > 20, "the search itself finds nothing"
    assert codes <= explained_codes()
