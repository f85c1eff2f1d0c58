"""``fluxbee`` for tests that kill it: an eager keeper, and another boot when the test says so.

The real keeper waits longer after every fall of a plane and parks it after ten in a row: right for a box, but
hundreds of kills in minutes need one that starts it again at once. ``FLUXBEE_TEST_BOOT_ID`` stands for the
kernel's boot id, as after a power cut. Everything else is the program itself:
``FLUXBEE_PROGRAM="python -m tests.fault.hive_program"``.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

from appliance import app
from appliance.cli import main
from appliance.keeper import Keeper, KeeperSettings
from appliance.system import boot

EAGER = KeeperSettings(backoff_initial_s=0.01, backoff_cap_s=0.02, park_after=1_000_000)


def _in_boot(text: str, file: Path) -> None:
    file.write_text(text)
    boot.boot_id.__defaults__ = (file,)


if __name__ == "__main__":
    app.Keeper = partial(Keeper, settings=EAGER)  # type: ignore[misc,assignment]
    if "FLUXBEE_TEST_BOOT_ID" in os.environ:
        root = Path(sys.argv[sys.argv.index("--root") + 1])
        _in_boot(os.environ["FLUXBEE_TEST_BOOT_ID"], root / "boot_id")
    sys.exit(main())
