"""What holds for all tests: which of them can run here, and where a hive may lie.

Tests marked `privileged` need root. Elsewhere they are deselected, not failed and not silently passed: the
summary says how many and how to run them.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

LITERAL_PATHS_ENV = "FLUXBEE_TEST_LITERAL_PATHS"
"""Set where a test run has /etc, /var/lib and /run for itself (tests/compat/test_literal_paths.py)."""

_LEFT_OUT = pytest.StashKey[int]()


def pytest_configure() -> None:
    # A background job of a shell ignores Ctrl-C, one under nohup a hang-up; every program that a test starts
    # would do so, too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    privileged = [item for item in items if item.get_closest_marker("privileged")]
    if privileged:
        items[:] = [item for item in items if not item.get_closest_marker("privileged")]
        config.hook.pytest_deselected(items=privileged)
        config.stash[_LEFT_OUT] = len(privileged)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    count = config.stash.get(_LEFT_OUT, 0)
    if count:
        terminalreporter.write_line(f"{count} privileged tests left out: they need root (sudo make test)")


def _short_folder() -> Iterator[Path]:
    """An empty folder with a short path: that of a Unix socket has 107 bytes, and pytest's own is long."""
    folder = Path(tempfile.mkdtemp(prefix="fluxbee-"))
    yield folder
    shutil.rmtree(folder)


def _hive_root() -> Iterator[Path | None]:
    """Like ``hive_folder``; the reference's own places in a run that has them for itself."""
    if os.environ.get(LITERAL_PATHS_ENV):
        yield None
    else:
        yield from _short_folder()


hive_folder = pytest.fixture(_short_folder, name="hive_folder")
module_hive_folder = pytest.fixture(_hive_root, scope="module", name="module_hive_folder")
