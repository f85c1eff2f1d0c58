"""Starts the router that is measured, loaded as a busy hive is, and ends it with stdin.

``python -m tests.bench.clients.hive --root DIR [--planes together|apart] [--nodes N] [--routes N] [--vpns
N] [--cpu N]``

Writes the hive's configuration below ``DIR``, starts the program on one CPU, waits for its node socket,
connects ``N`` idle nodes spread over the VPNs, and says one JSON line: ``{"socket": …, "hive": …, "kind":
…, "pid": …}``. ``--router pump`` starts the throw-away pump instead (it knows neither routes nor VPNs).
"""

from __future__ import annotations

import argparse
import http.client
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from ..harness import pinned
from .fleet import ROOT, ClientFailed, ClientProcess, Fleet

__all__ = ["free_port", "health", "main", "stop", "write_configuration"]

HIVE = "bench"
START_S = 20.0
_NODES_PER_PROCESS = 500


def write_configuration(root: Path, *, planes: str, routes: int, vpns: int, admin_port: int) -> Path:
    """Write ``hive.yaml`` and the route document below ``root``; returns the path of the former.

    The rules never match a node of the benchmarks: they are there to be in the way.
    """
    etc = root / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    hive_yaml = etc / "hive.yaml"
    hive_yaml.write_text(
        f"hive_id: {HIVE}\nrole: worker\nroot: {root}\nplanes: {planes}\n"
        f"admin:\n  listen: 127.0.0.1:{admin_port}\nworld:\n  listen: 127.0.0.1:0\n"
    )
    lines = ["version: 2", f'updated_at: "{int(time.time() * 1000)}"', "routes:" if routes else "routes: []"]
    for number in range(routes):
        kind = ("PREFIX", "EXACT", "GLOB")[number % 3]
        pattern = {
            "PREFIX": f"AI.route{number:03}.*",
            "EXACT": f"AI.route{number:03}@far{number:03}",
            "GLOB": f"AI.*.route{number:03}@*",
        }[kind]
        lines.append(
            f"- {{prefix: '{pattern}', match_kind: {kind}, action: FORWARD, next_hop_hive: far{number:03}}}"
        )
    lines.append("vpns:" if vpns else "vpns: []")
    for number in range(vpns):
        kind, pattern = (
            ("GLOB", f"AI.*.vpn{number:03}@*") if number % 8 == 7 else ("PREFIX", f"AI.vpn{number:03}.*")
        )
        lines.append(f"- {{pattern: '{pattern}', match_kind: {kind}, vpn_id: {number + 1}}}")
    (etc / "sy-config-routes.yaml").write_text("\n".join([*lines, ""]))
    return hive_yaml


def _start_pump(fleet: Fleet, root: Path, cpu: int | None) -> tuple[str, ClientProcess]:
    path = root / "pump.sock"
    process = fleet.start(["-S", "-E", "-m", "tests.bench.clients.pump", str(path)], label="pump", cpu=cpu)
    return str(process.hear(START_S)["socket"]), process


def free_port() -> int:
    """A TCP port on loopback that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def health(port: int, timeout_s: float = 1.0) -> int | None:
    """Status of ``GET /health`` on loopback, ``None`` when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _start_program(
    command: list[str], root: Path, admin_port: int, cpu: int | None
) -> tuple[str, subprocess.Popen[bytes]]:
    """Start the program; it has started when its node socket is there and ``/health`` says 200."""
    log = (root / "program.log").open("wb")
    with log, pinned(cpu):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)
    routers = root / "run" / "routers"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        sockets = [path for path in sorted(routers.glob("*.sock")) if not path.name.startswith("irp-")]
        if sockets and health(admin_port) == 200:
            return str(sockets[0]), process
        time.sleep(0.05)
    stop(process)
    tail = (root / "program.log").read_text(errors="replace")[-2000:]
    raise ClientFailed(f"{' '.join(command)} did not become ready: {tail}")


def _connect_crowd(fleet: Fleet, address: str, nodes: int, vpns: int) -> None:
    """Idle nodes, most of them in VPNs of their own."""
    for first in range(0, nodes, _NODES_PER_PROCESS):
        crowd = fleet.client(f"crowd {first}")
        count = min(_NODES_PER_PROCESS, nodes - first)
        names = [
            f"AI.vpn{number % vpns:03}.crowd{number:04}" if vpns else f"AI.crowd{number:04}"
            for number in range(first, first + count)
        ]
        crowd.ask(
            "open",
            kind="flux",
            address=address,
            nodes=[(str(uuid.uuid4()), name) for name in names],
            timeout_s=60,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the program to stop, insist after ten seconds; always reaped."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.clients.hive")
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--router", choices=("pump", "fluxbee"), default="fluxbee")
    parser.add_argument("--planes", choices=("together", "apart"), default="together")
    parser.add_argument("--nodes", type=int, default=0)
    parser.add_argument("--routes", type=int, default=0)
    parser.add_argument("--vpns", type=int, default=0)
    parser.add_argument("--cpu", type=int, default=None)
    parser.add_argument(
        "--command", default=None, help="program and arguments; {root} and {config} are filled in"
    )
    return parser.parse_args()


def main() -> None:
    """Start, report, wait for the end of stdin, stop."""
    wanted = _arguments()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    with tempfile.TemporaryDirectory(prefix="fluxbee-bench-") as temporary, Fleet() as fleet:
        root: Path = wanted.root or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        program: subprocess.Popen[bytes] | None = None
        try:
            if wanted.router == "pump":
                address, pump = _start_pump(fleet, root, wanted.cpu)
                pid = pump.pid
            else:
                port = free_port()
                config = write_configuration(
                    root, planes=wanted.planes, routes=wanted.routes, vpns=wanted.vpns, admin_port=port
                )
                default = f"{sys.executable} -m appliance run --config {{config}}"
                text: str = (wanted.command or default).format(root=root, config=config)
                address, program = _start_program(text.split(), root, port, wanted.cpu)
                pid = program.pid
            _connect_crowd(fleet, address, wanted.nodes, wanted.vpns)
            print(
                json.dumps(
                    {"socket": address, "hive": HIVE, "kind": wanted.router, "pid": pid, "root": str(root)}
                ),
                flush=True,
            )
            sys.stdin.read()
        except ClientFailed as error:
            print(json.dumps({"error": str(error)}), flush=True)
        finally:
            if program is not None:
                stop(program)


if __name__ == "__main__":
    main()
