"""What the tests of the example nodes share: an example as a running process, and a node that asks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from appliance.sdk import Meta, Node, build_message, text_payload
from appliance.testing.hive import HiveHarness
from appliance.wire.errors import Unreachable

__all__ = ["DEADLINE_S", "EXAMPLES", "Asker", "asking", "running"]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
DEADLINE_S = 20.0


@contextmanager
def running(
    hive: HiveHarness, example: str, name: str, config: Mapping[str, object] | None = None, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """An example with ``config`` as its ``config.json``; ends with SIGTERM, and must end well."""
    script = EXAMPLES / example / "bin" / "start.sh"
    folder = hive.paths.nodes / name.partition(".")[0] / name
    folder.mkdir(parents=True, exist_ok=True)
    program = hive.paths.root / "fluxbee"
    if not program.exists():  # written once: another example may be starting from it
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m appliance "$@"\n')
        program.chmod(0o755)
    (folder / "config.json").write_text(json.dumps({"_system": {"config_version": 1}, **(config or {})}))
    environment = {
        **{key: value for key, value in os.environ.items() if key != "OPENAI_API_KEY"},
        "PYTHONPATH": str(ROOT),
        "FLUXBEE_ROOT": str(hive.paths.root),
        "FLUXBEE_NODE_NAME": name,
        "FLUXBEE_BIN": str(program),
        **env,
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([str(script)], stdout=log, stderr=log, env=environment, cwd=folder)
    try:
        yield process
        process.terminate()
        assert process.wait(DEADLINE_S) == 0, (folder / "log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Traceback" not in (folder / "log").read_text()


class Asker:
    """A node that asks, and waits for one that is on its way."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def ask(self, dst: str, text: str, **meta: Any) -> dict[str, Any]:
        deadline = trio.current_time() + DEADLINE_S
        while True:
            message = build_message(
                src=self.node.uuid, dst=dst, payload=text_payload(text), meta=Meta(type="user", **meta)
            )
            try:
                return (await self.node.request(message, timeout_s=DEADLINE_S)).json()
            except Unreachable as error:
                if error.code != "NODE_NOT_FOUND" or trio.current_time() > deadline:
                    raise
                await trio.sleep(0.05)

    async def text(self, dst: str, text: str, **meta: Any) -> str:
        return str((await self.ask(dst, text, **meta))["content"])


def asking(hive: HiveHarness, steps: Callable[[Asker], Awaitable[None]]) -> None:
    """Run ``steps`` with a node of their own."""

    async def main() -> None:
        with trio.fail_after(60):
            async with hive.connect("IO.tester") as node:
                await steps(Asker(node))

    trio.run(main)
