"""``fluxbee`` for tests that break it: an eager keeper, another boot, a medium that fails.

The real keeper waits longer after every fall of a plane and parks it after ten in a row: right for a box, but
hundreds of kills in minutes need one that starts it again at once. ``FLUXBEE_TEST_BOOT_ID`` stands for the
kernel's boot id, as after a power cut. While the file ``FLUXBEE_TEST_FAULT`` exists, everything that writes
journals, small files and disk regions fails with the errno that the file holds. ``FLUXBEE_TEST_CLOCK`` names
a file with the seconds by which the wall clock is wrong. All else is the program itself:
``FLUXBEE_PROGRAM="python -m tests.fault.hive_program"``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from appliance.app import planes
from appliance.cli import main
from appliance.keeper import Keeper, KeeperSettings
from appliance.store.files import storage_error
from appliance.store.region import Environment
from appliance.system import boot
from appliance.system.disk import RealDisk

EAGER = KeeperSettings(backoff_initial_s=0.01, backoff_cap_s=0.02, park_after=1_000_000)
WRITING = ("create", "open_write", "pwrite", "sync", "truncate", "rename", "unlink", "sync_dir")


def _in_boot(text: str, file: Path) -> None:
    file.write_text(text)
    boot.boot_id.__defaults__ = (file,)


def _failing(call: Callable[..., Any], check: Callable[[Any], None]) -> Callable[..., Any]:
    @wraps(call)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(self)
        return call(self, *args, **kwargs)

    return checked


def _on_medium(flag: Path) -> None:
    """Have disk and regions look whether the medium fails before they write."""

    def check_disk(disk: object) -> None:
        if flag.exists():
            number = int(flag.read_text())
            raise OSError(number, os.strerror(number))

    def check_region(environment: Environment) -> None:
        if environment.spec.on_disk:
            try:
                check_disk(environment)
            except OSError as error:
                raise storage_error(error, environment.spec.name) from error

    for name in WRITING:
        setattr(RealDisk, name, _failing(getattr(RealDisk, name), check_disk))
    Environment.begin = _failing(Environment.begin, check_region)  # type: ignore[method-assign]


def _wrong_clock(file: Path) -> None:
    """Bend the wall clock; the monotonic one is left alone, as the kernel does."""
    real_s, real_ns = time.time, time.time_ns
    time.time = lambda: real_s() + float(file.read_text())
    time.time_ns = lambda: real_ns() + int(float(file.read_text()) * 1e9)


if __name__ == "__main__":
    planes.Keeper = partial(Keeper, settings=EAGER)  # type: ignore[misc,assignment]
    if "FLUXBEE_TEST_BOOT_ID" in os.environ:
        root = Path(sys.argv[sys.argv.index("--root") + 1])
        _in_boot(os.environ["FLUXBEE_TEST_BOOT_ID"], root / "boot_id")
    if "FLUXBEE_TEST_FAULT" in os.environ:
        _on_medium(Path(os.environ["FLUXBEE_TEST_FAULT"]))
    if "FLUXBEE_TEST_CLOCK" in os.environ:
        _wrong_clock(Path(os.environ["FLUXBEE_TEST_CLOCK"]))
    sys.exit(main())
