"""The operators' scripts once more, with a hive at the reference's own places.

A mount namespace of its own has an empty ``/var/lib/fluxbee`` and ``/run`` and a copy of ``/etc``; those of
the machine stay as they are. Tests that need a second hive have folders of their own elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import LITERAL_PATHS_ENV

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.privileged]

ROOT = Path(__file__).resolve().parents[2]
PREPARE = """
set -eu
folder="$1"; shift
mount -t tmpfs none "$folder"
cp -a /etc "$folder/etc"
mkdir "$folder/lib"
mount --bind "$folder/etc" /etc
mount -t tmpfs none /run
mkdir -p /var/lib/fluxbee
mount --bind "$folder/lib" /var/lib/fluxbee
exec "$@"
"""


@pytest.fixture
def mount_point():
    """Where the namespace hangs its file system; only an empty folder is left to remove."""
    lib = Path("/var/lib/fluxbee")
    had = lib.exists()
    lib.mkdir(exist_ok=True)
    folder = Path("/mnt/fluxbee-test")
    folder.mkdir(exist_ok=True)
    yield folder
    folder.rmdir()
    if not had:
        lib.rmdir()


@pytest.mark.parametrize("scripts", ["nodes", "runtimes", "admin"])
def test_scripts_hold_at_the_literal_paths(mount_point, scripts):
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", f"tests/compat/test_scripts_{scripts}.py"]
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        PREPARE,
        "sh",
        str(mount_point),
        *run,
    ]
    environment = {**os.environ, LITERAL_PATHS_ENV: "1"}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert told.returncode == 0, told.stdout[-6000:] + told.stderr[-2000:]
    assert "passed" in told.stdout
