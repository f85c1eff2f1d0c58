"""``fluxbee node run``: a node's Python file inside this program.

A package's ``bin/start.sh`` calls it, so that a node needs no Python on the box: the frozen program brings
the interpreter, the SDK and their libraries. The script sees what ``python SCRIPT`` would show it:
``__main__``, its own folder first in ``sys.path``, its arguments. SIGTERM ends any script cleanly, also one
that knows nothing of signals.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

from appliance.wire.errors import FluxbeeError, Invalid, NotFound

from .frame import Verbs, add_verb, completes
from .output import ExitCode
from .places import add_root_argument, hive_paths

__all__ = ["add_run_verb", "run_script"]


def add_run_verb(group: Verbs) -> None:
    """Add ``run`` to the verbs of ``node``."""
    run = add_verb(
        group,
        "run",
        _run,
        summary="run a node that is a Python file",
        details=(
            "The file may import appliance.sdk and what lies beside it; ARGS are its own. Options of this\n"
            "command come before SCRIPT. Ends with the script's exit code; 0 after SIGTERM, 1 after an\n"
            "exception, 2 when the file is no Python."
        ),
        examples=[
            ("fluxbee node run greeter.py", "until Ctrl-C or SIGTERM"),
            ("fluxbee node run --name AI.greeter.two greeter.py", "the same under another name"),
            (
                'exec "${FLUXBEE_BIN:-fluxbee}" node run "$(dirname "$0")/../main.py"',
                "bin/start.sh of a package",
            ),
        ],
    )
    run.add_argument("--name", metavar="NAME", help="L2 name, given to the script in FLUXBEE_NODE_NAME")
    add_root_argument(run)
    completes(run.add_argument("script", metavar="SCRIPT", help="the node's Python file"), "file")
    run.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER, help="arguments of the script")


def _run(args: argparse.Namespace) -> int:
    from appliance.sdk.managed import NODE_NAME_ENV
    from appliance.system.paths import ROOT_ENV
    from appliance.wire.names import base_name, check_local_name

    if args.name:
        check_local_name(base_name(args.name), "--name")
        os.environ[NODE_NAME_ENV] = args.name
    root = hive_paths(args).root
    if root is not None:
        os.environ[ROOT_ENV] = str(root.absolute())
    return run_script(Path(args.script), args.args)


def run_script(script: Path, arguments: list[str]) -> int:
    """Run ``script`` as ``__main__`` and return the exit code that it asks for.

    Raises:
        NotFound: there is no such file.
        Invalid: it, or a module beside it, is no Python of this version; the message has file and line.
        FluxbeeError: the script raised it, say because no router is there.
        KeyboardInterrupt: Ctrl-C, where the script does not handle it.
    """
    import runpy

    if not script.is_file():
        raise NotFound(f"there is no file {script}", field="SCRIPT", remedy="Name the node's Python file.")
    script = script.absolute()
    # A package is what was published; compiled files beside it would make it another one.
    sys.dont_write_bytecode = True
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    with _term_as_interrupt() as told:
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SyntaxError as error:
            raise _not_python(error, script) from error
        except SystemExit as leaving:
            return _exit_code(leaving)
        except KeyboardInterrupt:
            if not told:
                raise
        except FluxbeeError:
            raise  # told with its remedy, as of every verb
        except Exception as error:  # noqa: BLE001 - the author's program; shown as the interpreter would
            _show(error, script)
            return ExitCode.FAILED
        finally:
            sys.stdout.flush()
    return ExitCode.OK


@contextlib.contextmanager
def _term_as_interrupt() -> Iterator[list[int]]:
    """Turn SIGTERM into Ctrl-C, which trio, asyncio and plain programs all end on; yields what came."""
    told: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        told.append(number)
        signal.raise_signal(signal.SIGINT)

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background jobs ignore it, and event loops then do not prepare for it either.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


def _not_python(error: SyntaxError, script: Path) -> Invalid:
    where = f"{error.filename or script}, line {error.lineno}" if error.lineno else str(script)
    line = (error.text or "").strip()
    return Invalid(f"{where}: {error.msg}\n{line}".rstrip(), code="INVALID_SCRIPT", field="SCRIPT")


def _exit_code(leaving: SystemExit) -> int:
    if leaving.code is None:
        return ExitCode.OK
    if isinstance(leaving.code, int):
        return leaving.code
    sys.stderr.write(f"{leaving.code}\n")
    return ExitCode.FAILED


def _show(error: Exception, script: Path) -> None:
    """Print the traceback from the script's first frame on: what is above it is this program's."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != str(script):
        trace = trace.tb_next
    traceback.print_exception(error.with_traceback(trace or error.__traceback__))
