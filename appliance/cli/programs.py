"""One file, several commands: what the program is depends on the name that it is called by.

Operators' scripts call ``fluxbee-publish`` and the like. As a Python package these are entry points; the
frozen program has links of these names beside it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Final, cast

__all__ = ["PROGRAMS", "main"]

PROGRAMS: Final = MappingProxyType(
    {
        "fluxbee-publish": "publish:main",
        "fluxbee-scaffold": "scaffold:main",
        "admin_internal_command_diag": "diagnostics:diagnostics_main",
        "inventory_hold_diag": "node_hold:hold_main",
    }
)
"""Name → module of this package and its function; ``pyproject.toml`` has the same."""


def main() -> int:
    """Be what this process is called; by any other name ``fluxbee``."""
    module, _, function = PROGRAMS.get(Path(sys.argv[0]).name, ":main").partition(":")
    found = importlib.import_module(f"{__package__}.{module}" if module else str(__package__))
    return cast("Callable[[], int]", getattr(found, function))()
