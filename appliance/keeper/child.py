"""From a fresh fork to a running plane, and to its exit; nothing here returns to the keeper's code.

Order matters: first the death signal (a keeper that died meanwhile must not leave a plane), then the
session (Ctrl-C belongs to the keeper; the plane's helpers share its process group and go with it), then
descriptors, then signals. Exit happens through ``os._exit``: the keeper's ``finally`` blocks and exit
handlers are not ours to run.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from appliance.keeper.numbers import EX_CLEAN, EX_CONFIG, EX_SOFTWARE
from appliance.keeper.plane import PlaneContext, PlaneMain
from appliance.system import log
from appliance.system.notify import NOTIFY_VARIABLES
from appliance.system.process import (
    close_descriptors_except,
    open_descriptors,
    set_parent_death_signal,
    set_process_name,
)
from appliance.wire.errors import Misconfigured

__all__ = ["ALL_SIGNALS", "exit_code_of", "run_plane"]

ALL_SIGNALS = signal.valid_signals()
_STDIO = frozenset({0, 1, 2})


def run_plane(main: PlaneMain, context: PlaneContext, *, keep: Iterable[int]) -> NoReturn:
    """Become the plane of ``context`` in a just forked child whose signals are blocked.

    Args:
        main: what to run.
        context: what ``main`` gets.
        keep: descriptors that stay open beside stdio.
    """
    code = EX_SOFTWARE
    try:
        set_parent_death_signal(signal.SIGKILL, parent_pid=context.keeper_pid)
        os.setsid()
        set_process_name(f"fluxbee-{context.name}")
        close_descriptors_except(_STDIO.union(keep, _stdio_again()))
        for variable in NOTIFY_VARIABLES:
            os.environ.pop(variable, None)
        _reset_signals()
        faulthandler.enable(file=2)
        code = main(context) or EX_CLEAN
    except BaseException as error:  # noqa: BLE001 - the top of a process: everything ends here, visibly
        code = exit_code_of(error)
        _report(context.name, error, code)
    finally:
        _flush()
        os._exit(code & 0xFF)


def exit_code_of(error: BaseException) -> int:
    """The exit code that an exception stands for.

    A :class:`Misconfigured`, alone or anywhere in a group, is ``EX_CONFIG``: the keeper parks the plane at
    once. ``SystemExit`` keeps its code; everything else is ``EX_SOFTWARE``.
    """
    if isinstance(error, SystemExit):
        if error.code is None:
            return EX_CLEAN
        return error.code if isinstance(error.code, int) else EX_SOFTWARE
    if _misconfigured(error):
        return EX_CONFIG
    return EX_SOFTWARE


def _misconfigured(error: BaseException) -> Misconfigured | None:
    if isinstance(error, Misconfigured):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for found in map(_misconfigured, error.exceptions) if found), None)
    return None


def _report(plane: str, error: BaseException, code: int) -> None:
    logger = log.get_logger(plane)
    wrong = _misconfigured(error)
    if wrong is not None:
        logger.error("misconfigured", code=wrong.code, message=wrong.message, remedy=wrong.remedy)
    elif code != EX_CLEAN:
        logger.exception("plane_failed", error, code="PLANE_FAILED")


def _stdio_again() -> frozenset[int]:
    """Descriptors of what stdio is, under other numbers: the log may have opened it once more.

    Closing them would let the log write to whatever gets their numbers next.
    """
    stdio = {_identity(fd) for fd in _STDIO} - {None}
    return frozenset(fd for fd in open_descriptors() if _identity(fd) in stdio)


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL_SIGNALS)


def _flush() -> None:
    log.flush()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            # Whoever read our output is gone, or it was closed: nobody is left to tell.
            continue
