"""A real medium that is full: writes are refused and say why, reads go on, and room makes it well again."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from appliance.testing.hive import HiveHarness
from tests.compat.world_kit import ADMIN, event, http

pytestmark = [pytest.mark.process, pytest.mark.privileged, pytest.mark.slow]

_MOUNT = shutil.which("mount") or "mount"
_UMOUNT = shutil.which("umount") or "umount"


@pytest.fixture
def medium(tmp_path) -> Iterator[Path]:
    place = tmp_path / "m"
    place.mkdir()
    subprocess.run([_MOUNT, "-t", "tmpfs", "-o", "size=96m", "fluxbee", place], check=True)
    try:
        yield place
    finally:
        subprocess.run([_UMOUNT, "-l", place], check=True)


def publish(client: httpx.Client, number: int) -> httpx.Response:
    return client.post("/api/events", json=event(f"full/{number}", pad="x" * 2000))


def test_a_full_partition(medium):
    """AT-NEW-22: 503 or 507, reads keep working, and it recovers after space was freed."""
    with HiveHarness(medium, settings={"world": {"admin_token": ADMIN}}) as hive, http(hive) as client:
        assert publish(client, 0).status_code == 200
        filler = medium / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        refused = None
        taken = []
        for number in range(1, 30_000):
            answer = publish(client, number)
            if answer.status_code != 200:
                refused = answer
                break
            taken.append(number)
        assert refused is not None
        assert refused.status_code in {503, 507}
        assert refused.json()["error"]
        assert client.get("/api/state/entities/full/0").json()["properties"]["pad"]
        assert client.get("/health").status_code in {200, 503}
        os.unlink(filler)
        deadline = time.monotonic() + 60
        while publish(client, 99_999).status_code != 200:
            assert time.monotonic() < deadline, "it does not recover"
            time.sleep(0.1)
        for number in (*taken[:3], *taken[-3:]):
            assert client.get(f"/api/state/entities/full/{number}").status_code == 200
