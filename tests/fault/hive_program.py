"""``fluxbee`` with a keeper that starts a fallen plane again at once, however often it fell.

The real one waits longer after every fall and parks a plane that falls ten times in a row: right for a box,
but hundreds of kills in minutes need this. Everything else is the program itself:
``FLUXBEE_PROGRAM="python -m tests.fault.hive_program"``.
"""

from __future__ import annotations

import sys
from functools import partial

from appliance import app
from appliance.cli import main
from appliance.keeper import Keeper, KeeperSettings

EAGER = KeeperSettings(backoff_initial_s=0.01, backoff_cap_s=0.02, park_after=1_000_000)

if __name__ == "__main__":
    app.Keeper = partial(Keeper, settings=EAGER)  # type: ignore[misc,assignment]
    sys.exit(main())
