"""``python -m appliance`` is ``fluxbee``."""

from __future__ import annotations

import sys

from appliance.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
