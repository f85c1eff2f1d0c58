"""What operators' scripts do, as functions: curl with JSON, edits of the manifest, polls.

The rows of ``spec/admin-api.md §F`` are written with these; ``Box.lib`` stands where a row has the
reference's ``/var/lib/fluxbee``.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

from appliance.system.paths import Paths
from appliance.testing.hive import HiveHarness

TENANT = "tnt:11111111-2222-4333-8444-555555555555"
OTHER_TENANT = "tnt:99999999-2222-4333-8444-555555555555"
SLEEPER = "#!/bin/sh\nexec sleep 3600\n"
NODE = '#!/bin/sh\nexec "$FLUXBEE_BIN" node run "$(dirname "$0")/../main.py"\n'
HELD = """import anyio
from appliance.sdk import run_node

async def handler(message, node):
    return None

anyio.run(run_node, "AI.test", handler)
"""
PATIENCE_S = 45.0
"""How long the scripts poll (``§F.1``)."""

SETTINGS = {"wan": {"listen": "127.0.0.1:9000"}, "orchestrator": {"default_tenant_id": TENANT}}


class Box:
    """One hive as a script sees it."""

    def __init__(self, url: str, paths: Paths, hive: str = "motherbee") -> None:
        self.client = httpx.Client(base_url=url, timeout=70.0)
        self.paths = paths
        self.hive = hive
        self.lib = paths.lib
        self.runtimes = self.lib / "dist" / "runtimes"
        self.environment = {"BASE": url}
        if paths.root is not None:
            self.environment["FLUXBEE_ROOT"] = str(paths.root)

    @classmethod
    def of(cls, harness: HiveHarness) -> Box:
        return cls(harness.url, harness.paths)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    # --- curl ------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, code: int | None = 200) -> dict[str, Any]:
        """One request as ``curl -d`` makes it; fails unless it ends in ``code``."""
        content = None if body is None else json.dumps(body)
        headers = {"content-type": "application/x-www-form-urlencoded"} if content else {}
        response = self.client.request(method, path, content=content, headers=headers)
        assert code is None or response.status_code == code, (
            f"{method} {path}: {response.status_code} {response.text}"
        )
        return response.json()

    def get(self, path: str, code: int | None = 200) -> dict[str, Any]:
        return self.call("GET", path, code=code)

    def node(self, name: str, rest: str = "") -> str:
        return f"/hives/{self.hive}/nodes/{name}{rest}"

    def spawn(self, name: str, code: int | None = 200, **body: Any) -> dict[str, Any]:
        return self.call("POST", f"/hives/{self.hive}/nodes", {"node_name": name, **body}, code)

    def kill(self, name: str, code: int | None = 200, **body: Any) -> dict[str, Any]:
        return self.call("DELETE", self.node(name), body, code)

    def status(self, name: str) -> dict[str, Any]:
        return self.get(self.node(name, "/status"))["payload"]["node_status"]

    def versions(self) -> dict[str, Any]:
        return self.get(f"/hives/{self.hive}/versions")["payload"]["hive"]

    def readiness(self, runtime: str, version: str) -> dict[str, Any]:
        return self.versions()["runtimes"]["runtimes"][runtime]["readiness"][version]

    def update(self, code: int | None = 200, **body: Any) -> dict[str, Any]:
        return self.call("POST", f"/hives/{self.hive}/update", body, code)

    # --- files -----------------------------------------------------------------------------------------

    def edit_manifest(self, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """What scripts do with ``sudo python3``: read, change, new version, write."""
        path = self.runtimes / "manifest.json"
        manifest = json.loads(path.read_text())
        change(manifest["runtimes"])
        manifest["version"] = max(int(time.time() * 1000), manifest["version"] + 1)
        path.write_text(json.dumps(manifest, indent=2))
        return manifest

    def install(
        self, name: str, version: str, start: str | None = SLEEPER, main: str | None = None, **entry: Any
    ) -> Path:
        """A runtime put into place by hand, as ``publish-runtime.sh`` does; it becomes the current one."""
        folder = self.runtimes / name / version
        folder.mkdir(parents=True, exist_ok=True)
        if start is not None:
            write_script(folder / "bin" / "start.sh", start)
        if main is not None:
            (folder / "main.py").write_text(main)

        def add(runtimes: dict[str, Any]) -> None:
            known = runtimes.setdefault(name, {"available": []})
            known["available"] = [*[one for one in known["available"] if one != version], version]
            known["current"] = version
            known.update({"type": "full_runtime", **entry})

        self.edit_manifest(add)
        return folder

    def manifest_hash(self) -> str:
        return hashlib.sha256((self.runtimes / "manifest.json").read_bytes()).hexdigest()

    def config_path(self, name: str) -> Path:
        return self.lib / "nodes" / name.split(".")[0] / f"{name}@{self.hive}" / "config.json"

    # --- waiting ---------------------------------------------------------------------------------------

    def until(self, what: str, holds: Callable[[], Any]) -> Any:
        """Poll as the scripts do; the first true value."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            value = holds()
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(f"{what}: not within {PATIENCE_S:g} s")

    def running(self, name: str) -> dict[str, Any]:
        """Wait for RUNNING; the status."""

        def look() -> dict[str, Any] | None:
            found = self.status(name)
            return found if found["lifecycle_state"] == "RUNNING" else None

        status: dict[str, Any] = self.until(f"{name} runs", look)
        return status

    def remove(self, name: str) -> None:
        """Kill, then delete the instance until there is none: what scripts do between runs."""
        self.kill(name, code=None)

        def gone() -> bool:
            path = self.node(name, "/instance")
            answer = self.call("DELETE", path, code=None)
            code = answer["error_code"]
            assert code in (None, "NODE_NOT_FOUND", "NODE_INSTANCE_RUNNING"), answer
            return code != "NODE_INSTANCE_RUNNING"

        self.until(f"{name} is removed", gone)


def write_script(path: Path, text: str, mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def write_package(folder: Path, files: dict[str, str], **package: Any) -> Path:
    """A package's source folder; files below ``bin`` are executable."""
    for name, text in {"package.json": json.dumps(package), **files}.items():
        write_script(folder / name, text, 0o755 if name.startswith("bin/") else 0o644)
    return folder


def zipped(source: Path, target: Path) -> Path:
    """``zip -r`` of a folder with its own name as the one root; modes are kept."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                archive.write(path, Path(source.name) / path.relative_to(source))
    return target
