"""Where the frozen program begins: the same entries as the installed commands."""

from __future__ import annotations

import sys

from appliance.cli.programs import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
