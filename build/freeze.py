"""Freeze the program: `python build/freeze.py [onedir|onefile|all] [--dist DIR] [--work DIR]`.

A form whose sources have not changed since it was frozen is left as it is. Afterwards the size and the start
time of each form are printed. PyInstaller's folders lie outside `build/`, which holds sources only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.cli.programs import PROGRAMS

__all__ = ["FORMS", "freeze", "program_path", "sources_digest"]

REPOSITORY = Path(__file__).resolve().parent.parent
FORMS = ("onedir", "onefile")
STARTS = 5


def program_path(form: str, dist: Path) -> Path:
    """The program file that ``form`` ("onedir" or "onefile") leaves below ``dist``."""
    return dist / form / "fluxbee" / "fluxbee" if form == "onedir" else dist / form / "fluxbee"


def _sources() -> Iterator[Path]:
    for folder, pattern in (("appliance", "*"), ("config", "*"), ("build", "*")):
        yield from sorted(
            path
            for path in (REPOSITORY / folder).rglob(pattern)
            if path.is_file() and "__pycache__" not in path.parts
        )


def sources_digest() -> str:
    """SHA-256 (hex) over what decides the frozen result: program, configuration, build files, Python."""
    digest = hashlib.sha256(sys.version.encode())
    for path in _sources():
        digest.update(f"{path.relative_to(REPOSITORY)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def freeze(form: str, dist: Path, work: Path) -> Path:
    """Freeze one form if its sources changed.

    Args:
        form: one of :data:`FORMS`.
        dist: results lie in ``dist/<form>``.
        work: PyInstaller's scratch folder; kept, as it makes the next run faster.

    Returns:
        The program file.

    Raises:
        subprocess.CalledProcessError: PyInstaller failed; its output went to standard error.
    """
    program = program_path(form, dist)
    stamp = dist / f"{form}.sources"
    digest = sources_digest()
    if program.is_file() and stamp.is_file() and stamp.read_text() == digest:
        return program
    stamp.unlink(missing_ok=True)
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR"]
    command += ["--distpath", str(dist / form), "--workpath", str(work / form)]
    command += [str(REPOSITORY / "build" / f"fluxbee-{form}.spec")]
    subprocess.run(command, check=True, cwd=REPOSITORY, stdin=subprocess.DEVNULL)
    for name in PROGRAMS:
        link = program.with_name(name)
        link.unlink(missing_ok=True)
        link.symlink_to(program.name)
    stamp.write_text(digest)
    return program


def _size_bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(f.lstat().st_size for f in path.rglob("*") if not f.is_dir())


def _start_s(program: Path) -> float:
    """Median wall time in seconds of `fluxbee version`, after one start that warms the page cache."""
    taken = []
    for _ in range(STARTS + 1):
        begin = time.perf_counter()
        subprocess.run([program, "version"], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begin)
    return sorted(taken[1:])[STARTS // 2]


def main() -> int:
    """Freeze what the command line names and print what came of it."""
    parser = argparse.ArgumentParser(description="Freeze the program with PyInstaller.")
    parser.add_argument("form", nargs="?", default="all", choices=[*FORMS, "all"])
    parser.add_argument("--dist", type=Path, default=REPOSITORY / "dist", help="results (default: ./dist)")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "work", help="scratch (default: ./work)")
    options = parser.parse_args()
    for form in FORMS if options.form == "all" else (options.form,):
        program = freeze(form, options.dist.resolve(), options.work.resolve())
        whole = program.parent if form == "onedir" else program
        shown = os.path.relpath(program)
        print(f"{form}: {shown}  {_size_bytes(whole) / 1e6:.1f} MB  start {_start_s(program):.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
