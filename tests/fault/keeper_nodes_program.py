"""A real keeper with a routing and a supervising plane that a test commands, as a process of its own.

``python -m tests.fault.keeper_nodes_program <run directory> <cgroups: 0 or 1>``. The plane ``control``
serves one JSON command per connection on ``<run>/control.cmd``; ``data`` routes on ``<run>/router.sock``
and tells its counters in ROUTER_STATUS.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
import trio

from appliance.keeper import Keeper, KeeperSettings, PlaneContext
from appliance.keeper.nodes_protocol import Claim, NodeEnded, NodeLaunch
from appliance.keeper.protocol import encode
from appliance.keeper.trio_plane import TrioPlane
from appliance.router.claims import Claims
from appliance.router.config import EngineSettings
from appliance.router.engine import Engine
from appliance.router.shell import Shell
from appliance.router.threads import ThreadCounters
from appliance.wire.errors import FluxbeeError
from tests.router_kit import HIVE, ROUTER_NAME, ROUTER_UUID, Bounds, Turns


class Control:
    """Asks the keeper what a test wants."""

    def __init__(self, plane: TrioPlane, run_directory: Path) -> None:
        self.plane = plane
        self.path = run_directory / "control.cmd"
        self.ended: list[NodeEnded] = []

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        self.path.unlink(missing_ok=True)
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        await listener.bind(str(self.path))
        listener.listen(16)
        task_status.started()
        while True:
            connection, _ = await listener.accept()
            with connection:
                command = json.loads(await connection.recv(65536))
                try:
                    answer = await getattr(self, f"do_{command.pop('do')}")(**command)
                except FluxbeeError as error:
                    answer = {"error": error.code, "kind": type(error).__name__, "message": error.message}
                await connection.send(encode(answer))

    async def collect(self) -> None:
        async for event in self.plane.node_events:
            self.ended.append(event)

    async def do_start(self, launch: dict[str, Any]) -> object:
        return await self.plane.start_node(msgspec.convert(launch, NodeLaunch))

    async def do_stop(self, name: str, **how: Any) -> object:
        return await self.plane.stop_node(name, **how)

    async def do_forget(self, name: str) -> None:
        await self.plane.forget_node(name)

    async def do_nodes(self) -> object:
        return await self.plane.nodes()

    async def do_ended(self) -> object:
        return [event.process for event in self.ended]

    async def do_status(self) -> object:
        return await self.plane.status()


async def control(context: PlaneContext, run_directory: Path) -> None:
    plane = TrioPlane(context)
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.run)
        served = Control(plane, run_directory)
        await plane.follow_nodes()
        nursery.start_soon(served.collect)
        await nursery.start(served.serve)
        await plane.ready()
        await plane.wait_stop()
        nursery.cancel_scope.cancel()


async def data(context: PlaneContext, run_directory: Path) -> None:
    plane = TrioPlane(context)
    async with trio.open_nursery() as nursery:
        await nursery.start(plane.run)
        claims = Claims()

        def take(name: str, claim: Claim | None) -> None:
            if claim is None:
                claims.unclaim(name)
            else:
                claims.claim(name, session=claim.pid, token_sha256=claim.token_sha256, cgroup=claim.cgroup)

        plane.watch_claims(take)
        path = run_directory / "router.sock"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.setblocking(False)
        listener.listen(64)
        settings = EngineSettings(hive=HIVE, router_uuid=ROUTER_UUID, router_name=ROUTER_NAME)
        engine = Engine(settings, threads=ThreadCounters(Bounds()), turns=Turns())
        engine.greeter.configured = True
        engine.greeter.claims = claims
        nursery.start_soon(Shell(engine, listener).run)
        await plane.ready()
        await plane.wait_stop()
        nursery.cancel_scope.cancel()


def main() -> int:
    run_directory = Path(sys.argv[1])

    def plane(body: Any) -> Any:
        def run(context: PlaneContext) -> int:
            trio.run(body, context, run_directory)
            return 0

        return run

    os.environ["LEAK"] = "of the keeper"
    return Keeper(
        {"data": plane(data), "control": plane(control)},
        run_directory=run_directory,
        settings=KeeperSettings(),
        use_cgroups=sys.argv[2] == "1",
        seed=1,
    ).run()


if __name__ == "__main__":
    sys.exit(main())
