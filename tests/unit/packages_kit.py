"""Makes packages, manifests and zips for the tests of runtimes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from appliance.supervise.install import InstallReport, install_package
from appliance.supervise.manifest import create_manifest
from appliance.supervise.package import validate_package

START = "#!/bin/sh\nexec sleep 3600\n"


def describe(
    name: str = "ai.greeter", version: str = "0.1.0", kind: str = "full_runtime", **more: object
) -> str:
    return json.dumps({"name": name, "version": version, "type": kind, **more})


def make_package(directory: Path, files: Mapping[str, str] | None = None, **about: object) -> Path:
    """A directory with a package; a full runtime gets its start script."""
    described = {"package.json": describe(**about)}  # type: ignore[arg-type]
    if about.get("kind", "full_runtime") == "full_runtime":
        described["bin/start.sh"] = START
    for path, text in {**described, **(files or {})}.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        if path.startswith("bin/"):
            target.chmod(0o755)
    return directory


def make_dist(directory: Path) -> Path:
    create_manifest(directory, now_ms=1000)
    return directory


def write_manifest_text(dist: Path, runtimes: object, version: int = 7, **more: object) -> None:
    """As an operator's script does it."""
    document = {"schema_version": 1, "version": version, "runtimes": runtimes, **more}
    (dist / "runtimes" / "manifest.json").write_text(json.dumps(document))


def put(
    dist: Path, source: Path, now_ms: int = 5000, set_current: bool = True, **about: object
) -> InstallReport:
    """Make and install a package."""
    package = validate_package(make_package(source, **about))  # type: ignore[arg-type]
    return install_package(package, dist, now_ms=now_ms, set_current=set_current)


def make_zip(
    path: Path, files: Mapping[str, str | bytes], mode: int = 0o100644, root: str = "ai.greeter"
) -> Path:
    """A zip with ``files`` below ``root``; ``bin/**`` gets execute bits."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(f"{root}/{name}" if root else name)
            info.create_system = 3
            info.external_attr = (0o100755 if name.startswith("bin/") else mode) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below ``directory``, without locks."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".manifest.lock"
    }
