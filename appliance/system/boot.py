"""Which boot of the kernel this is.

The kernel draws a random id per boot. What was written without a sync is intact while the id is the same (the
page cache survives every process) and unknown once it changed. Containers share their host's id, which
is right: the page cache is the host's too.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import NewType

__all__ = ["BOOT_ID_FILE", "BootId", "boot_id"]

BootId = NewType("BootId", str)
"""Opaque text; equal texts mean the same boot."""

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


def boot_id(source: Path = BOOT_ID_FILE) -> BootId:
    """The id of this boot.

    Where the kernel does not tell, the answer is a fresh random text that equals no other one: callers
    then trust nothing from before, which costs a rebuild and never an error.
    """
    try:
        text = source.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    return BootId(text or f"unknown-{secrets.token_hex(16)}")
