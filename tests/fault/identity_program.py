"""``fluxbee`` that dies, once, between the identity journal and region ``identity``.

While the file ``FLUXBEE_TEST_DIE`` exists, the process that is about to show a new change in the region is
killed; the file is removed first, so that the next one lives. All else is :mod:`tests.fault.hive_program`.
"""

from __future__ import annotations

import os
import runpy
import signal
from pathlib import Path
from typing import Any

from appliance.services.identity.region import IdentityRegion


def _die_at(flag: Path) -> None:
    show = IdentityRegion.show

    def die() -> None:
        if flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    async def checked(self: IdentityRegion, directory: Any, sequence: int, newest: Any) -> None:
        if newest:
            die()
        await show(self, directory, sequence, newest)

    IdentityRegion.show = checked  # type: ignore[method-assign]


if __name__ == "__main__":
    _die_at(Path(os.environ["FLUXBEE_TEST_DIE"]))
    runpy.run_module("tests.fault.hive_program", run_name="__main__")
