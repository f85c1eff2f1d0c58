"""What both frozen forms of the program have in common.

The two specs differ only in how the result is packed. Everything that decides *what* is inside stands here:
modules that no import statement shows, a shared object that PyInstaller misses, packages that must stay
outside, and which binaries may be stripped. `build/freeze.py` runs the specs.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from PyInstaller.utils.hooks import collect_submodules, copy_metadata

__all__ = ["DATAS", "EXCLUDED", "HIDDEN", "NAME", "PROGRAM", "REPOSITORY", "binaries", "strip_safely"]

NAME = "fluxbee"
REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = str(REPOSITORY / "build" / "program.py")

EXCLUDED = [
    # Test and development packages; present where the program is frozen, never in what ships.
    "_pytest",
    "appliance.testing",
    "hypothesis",
    "mypy",
    "nats",
    "pip",
    "pluggy",
    "pygments",
    "pytest",
    "ruff",
    "schemathesis",
    "setuptools",
    "wheel",
    "xdist",
    # Parts of the standard library and of dependencies that nothing in the program reaches.
    "cffi.setuptools_ext",
    "curses",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "lmdb.cffi",
    "pdb",
    "pycparser",
    "pydoc",
    "pydoc_data",
    "readline",
    "test",
    "tkinter",
    "turtledemo",
    "unittest",
    "venv",
    "zmq.auth.asyncio",
    "zmq.eventloop",
    "zmq.green",
    "zmq.log",
    "zmq.ssh",
]


def _standard_library() -> list[str]:
    """The standard library but for ``EXCLUDED``: nodes that run in the frozen program import it."""
    found: list[str] = []
    for name in sorted(sys.stdlib_module_names - {"__main__", "antigravity", "this", "turtle"}):
        if name in EXCLUDED or importlib.util.find_spec(name) is None:
            continue
        found += collect_submodules(name, filter=lambda one: one not in EXCLUDED and ".test" not in one)
    return found


HIDDEN = [
    # Found by name at run time, or asked for by a C extension: no import statement leads PyInstaller to them.
    *collect_submodules("appliance", filter=lambda name: not name.startswith("appliance.testing")),
    *collect_submodules("hypercorn", filter=lambda name: "asyncio" not in name and "uvloop" not in name),
    "anyio._backends._asyncio",
    "anyio._backends._trio",
    "_cffi_backend",
    # cbor2 asks for these when it first meets a tag.
    "decimal",
    "email.mime.text",
    "email.parser",
    "fractions",
    "ipaddress",
    "uuid",
    "lmdb._config",
    "lmdb._envid",
    "lmdb.cpython",
    "zmq.backend.cython",
    "zmq.backend.cython._zmq",
    *_standard_library(),
]

NOT_SHIPPED = {"pycparser", "setuptools"}
"""In the lock, but only used while something is built."""


def _shipped() -> list[str]:
    """Names of the distributions in the run-time lock: their licences and versions ship with the code."""
    lines = (REPOSITORY / "build" / "requirements.lock").read_text().splitlines()
    names = [line.split("==")[0] for line in lines if "==" in line and not line.startswith((" ", "#"))]
    return [name for name in names if name not in NOT_SHIPPED]


def _pages() -> list[tuple[str, str]]:
    """The doors' pages, each into its own folder."""
    folders = sorted(REPOSITORY.glob("appliance/http/**/page"))
    return [(str(folder), str(folder.relative_to(REPOSITORY))) for folder in folders]


DATAS: list[tuple[str, str]] = [
    (str(REPOSITORY / "config"), "config"),
    (str(REPOSITORY / "LICENSE"), "."),
    *(
        (str(page), str(page.relative_to(REPOSITORY)))
        for page in sorted(REPOSITORY.glob("appliance/http/**/page"))
    ),
    *(entry for name in _shipped() for entry in copy_metadata(name)),
]

STRIPPED = ("_libwasmtime.so", "libpython3", "libcrypto.so", "libssl.so", "libstdc++.so", "_yaml.", "_cbor2.")
"""Start of the file names that `strip` may touch, besides the interpreter's own extension modules. Libraries
that auditwheel has patched (libzmq, libsodium) are left alone: stripping moves their segments, and the loader
then refuses them."""


def binaries() -> list[tuple[str, str]]:
    """The shared objects that PyInstaller does not find, as (file, folder inside the bundle).

    wasmtime opens its library through ctypes, by a path next to its own source file.

    Raises:
        SystemExit: the installed wasmtime has no library; a bundle without it would fail on a box.
    """
    spec = importlib.util.find_spec("wasmtime")
    if spec is None or spec.origin is None:
        raise SystemExit("wasmtime is not installed")
    package = Path(spec.origin).parent
    found = sorted(package.glob("*/_libwasmtime.so"))
    if not found:
        raise SystemExit(f"no _libwasmtime.so below {package}")
    return [(str(path), f"wasmtime/{path.parent.name}") for path in found]


def strip_safely(collected: list[tuple[str, str, str]], folder: Path) -> list[tuple[str, str, str]]:
    """The same entries, with copies in ``folder`` that carry no symbols where that is safe and pays."""
    if shutil.which("strip") is None:
        return collected
    folder.mkdir(parents=True, exist_ok=True)
    result = []
    for name, source, kind in collected:
        if Path(name).name.startswith(STRIPPED) or "lib-dynload" in Path(name).parts:
            target = folder / Path(name).name
            subprocess.run(["strip", "--strip-unneeded", "-o", str(target), source], check=True)
            source = str(target)
        result.append((name, source, kind))
    return result
