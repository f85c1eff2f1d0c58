"""``fluxbee run``: the appliance itself, in the foreground."""

from __future__ import annotations

import argparse
import gc
import sys
from typing import TYPE_CHECKING

from .frame import Verbs, add_config_arguments, add_verb, load_configuration
from .output import paint

if TYPE_CHECKING:
    from appliance.app import Hive

__all__ = ["add_parser"]


def add_parser(verbs: Verbs) -> None:
    """Add ``run``."""
    parser = add_verb(
        verbs,
        "run",
        _run,
        summary="run the appliance until it is told to stop",
        details=(
            "Stays in the foreground; Ctrl-C or SIGTERM stops it within 5 seconds. Ends with 0 after a\n"
            "clean stop, 8 when one runs here already, 70 when every plane failed, 75 when something had\n"
            "to be killed, 78 when the planes refuse the configuration."
        ),
        examples=[
            ("fluxbee run", "with /etc/fluxbee/hive.yaml"),
            ("fluxbee run --config config/development.yaml", "a motherbee below ./var"),
            ("fluxbee run --root /tmp/hive", "everything below one directory"),
        ],
    )
    add_config_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="do not print the greeting")


def _run(args: argparse.Namespace) -> int:
    gc.disable()  # what is imported stays; looking for garbage in it takes an eighth of the start
    try:
        configuration = load_configuration(args)
        from appliance.app import run
    finally:
        gc.enable()
    return run(configuration, ready=None if args.quiet else _greet)


def _greet(hive: Hive, mode: str) -> None:
    """Where everything listens, and what to try next."""
    err = sys.stderr
    settings, paths = hive.settings, hive.paths
    rows = [
        ("hive", f"{hive.hive_id} ({settings.role}), planes {mode}"),
        ("nodes", f"{paths.routers}/*.sock"),
        ("admin", f"http://{settings.admin.listen}  (a page; /docs, /health)"),
        ("world", f"http://{settings.world.listen}  (a page; /openapi.json)"),
        ("data", str(paths.lib)),
        ("config", str(paths.hive_yaml)),
    ]
    err.write(paint("Fluxbee Edge", "bold", err) + "\n")
    err.writelines(f"  {label:<7} {value}\n" for label, value in rows)
    root = "" if paths.root is None or paths.root.name == "var" else f" --root {paths.root}"
    err.write("try, in other shells:\n")
    err.write(f"  fluxbee node echo AI.echo{root}\n")
    err.write(f'  fluxbee send AI.echo@{hive.hive_id} "hola"{root}\n')
    err.write(f"  fluxbee tap{root}\n")
    err.write(f"  fluxbee status{root}\n")
    err.write("  fluxbee node --help; fluxbee world --help\n")
    err.flush()
