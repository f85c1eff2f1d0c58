"""``fluxbee-publish`` and ``fluxbee publish``: install a package on this motherbee, and roll it out.

Flags, environment, output lines and exit codes are those of ``spec/admin-api.md §E.1``: operators' scripts
grep them. It writes into ``dist/runtimes`` itself, beside a running hive; only ``--deploy`` talks to the
admin API.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from appliance import __version__
from appliance.system.paths import ROOT_ENV, Paths
from appliance.wire.errors import FluxbeeError, Invalid

from .frame import Verbs, add_verb, completes
from .output import ExitCode, clean

if TYPE_CHECKING:
    from .api import AdminApi, Envelope

__all__ = ["Options", "add_parser", "main", "parse_options", "publish"]

_USAGE: Final = """usage: fluxbee-publish <package_dir> [--version <v>] [--dry-run] [--deploy <hive>]
       fluxbee-publish --help | -h
"""
_STORAGE_S: Final = 3.0
_VERSIONS_S: Final = 35.0
_SYNC_MS: Final = 30_000
_SYNC_S: Final = 50.0
_UPDATE_S: Final = 65.0
_BAR_CHARS: Final = 30
_VALUE_FLAGS: Final = ("--version", "--deploy")


class Options(NamedTuple):
    """What the command line says."""

    package_dir: Path
    version: str | None = None
    dry_run: bool = False
    deploy: str | None = None


def add_parser(verbs: Verbs) -> None:
    """Add ``publish``."""
    parser = add_verb(
        verbs,
        "publish",
        _run,
        summary="install a package of a runtime on this motherbee",
        details="Writes below dist/runtimes of the hive at $FLUXBEE_ROOT, else of the one at $BASE.",
        examples=(
            ("fluxbee publish ./ai.greeter", "install it and make it current"),
            ("fluxbee publish ./ai.greeter --version 1.2.0 --deploy edge-07", "and roll it out"),
        ),
    )
    completes(parser.add_argument("package_dir", type=Path, help="directory with package.json"), "directory")
    parser.add_argument("--version", metavar="V", help="version instead of the one in package.json")
    parser.add_argument("--dry-run", action="store_true", help="validate and show what would be done")
    parser.add_argument("--deploy", metavar="HIVE", help="have this hive fetch and take over")


def _run(args: argparse.Namespace) -> int:
    return _reported(Options(args.package_dir, args.version, args.dry_run, args.deploy))


def main(argv: Sequence[str] | None = None) -> int:
    """The program ``fluxbee-publish``; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words:
        sys.stdout.write(_USAGE)
        return ExitCode.OK
    try:
        options = parse_options(words)
    except Invalid as error:
        sys.stderr.write(f"Error: {clean(error.message)}\n\n{_USAGE}")
        return ExitCode.USAGE
    return _reported(options)


def parse_options(words: Sequence[str]) -> Options:
    """The words of a command line as options.

    Raises:
        Invalid: unknown or repeated option, missing value, too many or no directories.
    """
    values: dict[str, str] = {}
    directories: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in values:
            raise Invalid(f"{word} is given twice")
        if word == "--dry-run":
            values[word] = "yes"
        elif word in _VALUE_FLAGS:
            if not rest or not rest[0] or rest[0].startswith("-"):
                raise Invalid(f"{word} needs a value")
            values[word] = rest.pop(0)
        elif word.startswith("-"):
            raise Invalid(f"unknown option {word}")
        else:
            directories.append(word)
    if len(directories) != 1:
        raise Invalid("no package directory" if not directories else f"unexpected argument {directories[1]}")
    return Options(
        Path(directories[0]), values.get("--version"), "--dry-run" in values, values.get("--deploy")
    )


def _reported(options: Options) -> int:
    try:
        publish(options)
    except (FluxbeeError, OSError) as error:
        sys.stdout.flush()
        sys.stderr.write(f"Error: {clean(error)}\n")
        return ExitCode.FAILED
    return ExitCode.OK


def publish(options: Options) -> None:
    """Validate, install and deploy, with the output that scripts read.

    Raises:
        FluxbeeError: it did not work; nothing is half installed.
    """
    from appliance.supervise.install import install_package
    from appliance.supervise.manifest import manifest_path, version_directory
    from appliance.supervise.package import validate_package

    from .api import AdminApi

    print(f"fluxbee-publish v{__version__}")
    package = validate_package(options.package_dir, version=options.version)
    print(f"Package: {package.name}")
    print(f"Version: {package.version}")
    print(f"Type: {package.package_type}")
    print(f"Path: {clean(package.directory.resolve())}")
    if package.runtime_base is not None:
        print(f"Base: {package.runtime_base}")
    print("Validation: OK")
    api = AdminApi.from_environment(os.environ.get("FLUXBEE_PUBLISH_BASE"))
    dist = _dist(api).absolute()
    if options.dry_run:
        print("Dry-run: completed validation. No filesystem changes applied.")
        print("Plan:")
        print(f"  source_dir: {clean(package.directory.resolve())}")
        print(f"  target_dir: {clean(version_directory(dist, package.name, package.version))}")
        print(f"  manifest_path: {clean(manifest_path(dist))}")
        if package.runtime_base is not None:
            print(f"  runtime_base: {package.runtime_base}")
        if options.deploy is not None:
            print(f"  deploy_target: {clean(options.deploy)}")
        return
    bar = _Bar()
    try:
        report = install_package(package, dist, now_ms=time.time_ns() // 1_000_000, progress=bar.show)
    finally:
        bar.clear()
    print(f"Install: OK (files={report.copied_files} bytes={report.copied_bytes})")
    print(f"Installed path: {clean(report.installed_path)}")
    print(f"Manifest: {clean(report.manifest_path)} (version={report.manifest_version})")
    if options.deploy is not None:
        sys.stdout.flush()
        _deploy(api, options.deploy, Path(report.manifest_path))


def _dist(api: AdminApi) -> Path:
    """Where runtimes lie: below ``$FLUXBEE_ROOT``, else where the hive says, else the usual place."""
    usual = Paths.from_environment()
    if os.environ.get(ROOT_ENV):
        return usual.dist
    try:
        path = api.call("GET", "/config/storage", timeout_s=_STORAGE_S).checked().fields().get("path")
    except FluxbeeError:
        return usual.dist
    told = Path(path) / usual.dist.name if isinstance(path, str) else usual.dist
    return told if told.is_dir() else usual.dist


def _deploy(api: AdminApi, hive: str, manifest: Path) -> None:
    import hashlib

    from .api import quoted

    print(f"Deploy: {clean(hive)}")
    mother = (
        os.environ.get("FLUXBEE_PUBLISH_MOTHER_HIVE_ID") or os.environ.get("MOTHER_HIVE_ID") or "motherbee"
    )
    versions = api.call("GET", f"/hives/{quoted(mother)}/versions", timeout_s=_VERSIONS_S)
    if versions.http_status >= 400:
        versions.checked()
        raise Invalid(f"the versions of {mother} are answered with {versions.http_status}")
    version, digest = _manifest_of(versions) or (0, hashlib.sha256(manifest.read_bytes()).hexdigest())
    hint = {"channel": "dist", "folder_id": "fluxbee-dist", "wait_for_idle": True, "timeout_ms": _SYNC_MS}
    synced = api.call("POST", f"/hives/{quoted(hive)}/sync-hint", hint, timeout_s=_SYNC_S)
    wanted = {"category": "runtime", "manifest_version": version, "manifest_hash": digest}
    updated = api.call("POST", f"/hives/{quoted(hive)}/update", wanted, timeout_s=_UPDATE_S)
    print(
        f"  sync_hint_status={clean(_status(synced))} update_status={clean(_status(updated))}"
        f" update_error_code={clean(updated.error_code)}"
    )


def _manifest_of(versions: Envelope) -> tuple[int, str] | None:
    """Version and hash of the runtime manifest in an answer; None when it has another shape."""
    hive = versions.fields().get("hive")
    runtimes = hive.get("runtimes") if isinstance(hive, dict) else None
    if not isinstance(runtimes, dict):
        return None
    version = runtimes.get("manifest_version", runtimes.get("version"))
    digest = runtimes.get("manifest_hash", runtimes.get("hash"))
    return (version, digest) if isinstance(version, int) and isinstance(digest, str) else None


def _status(envelope: Envelope) -> str:
    """The top-level status; ``error`` when the answer has none."""
    return envelope.status if envelope.action is not None or envelope.is_error else "error"


class _Bar:
    """How far the copy is, on a terminal only."""

    def __init__(self) -> None:
        self._shown = False
        self._wanted = sys.stderr.isatty()

    def show(self, done: int, total: int) -> None:
        if not self._wanted or total == 0:
            return
        self._shown = True
        filled = _BAR_CHARS * done // total
        bar = "#" * filled + "." * (_BAR_CHARS - filled)
        sys.stderr.write(f"\r[{bar}] {100 * done // total:3d} %  {done / 1e6:.1f} MB")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
