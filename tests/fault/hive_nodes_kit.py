"""Operators by HTTP who forget nothing, and what the kernel knows of a hive's nodes.

:class:`Operator` does random things to nodes of its own and keeps a book of what was answered;
:func:`living` counts the processes that carry a node's name, which no part of the hive is asked about.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from appliance.testing.hive import HiveHarness
from tests.compat.operator_box import TENANT

__all__ = ["Operator", "clear", "living", "main_processes"]

Json = dict[str, Any]


def _environment(pid: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def living(hive: HiveHarness) -> dict[str, list[int]]:
    """Pids by node name of every process that was started for a node of this hive, strays included."""
    mark = f"FLUXBEE_ROOT={hive.paths.root}".encode()
    found: dict[str, list[int]] = defaultdict(list)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        environment = _environment(pid)
        if mark in environment:
            for variable in environment:
                if variable.startswith(b"FLUXBEE_NODE_NAME="):
                    found[variable.partition(b"=")[2].decode().partition("@")[0]].append(int(pid))
    return dict(found)


def main_processes(hive: HiveHarness) -> dict[str, int]:
    """How many main processes each node has: leaders of a session, since helpers live in their node's."""
    found: dict[str, int] = {}
    for name, pids in living(hive).items():
        leaders = 0
        for pid in pids:
            try:
                leaders += os.getsid(pid) == pid
            except ProcessLookupError:
                continue
        if leaders:
            found[name] = leaders
    return found


def clear(hive: HiveHarness) -> None:
    """End what a failed test left."""
    for pids in living(hive).values():
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


class Operator:
    """One person with curl; nobody else touches ``names``.

    ``there``: ``True`` and ``False`` were answered, ``None``: no answer came. ``values`` holds, by name, what
    the configuration may say: one value when the last change was answered, several when it was not.
    """

    def __init__(self, hive: HiveHarness, names: Sequence[str], *, seed: int) -> None:
        self.hive = hive
        self.names = names
        self.there: dict[str, bool | None] = dict.fromkeys(names, False)
        self.values: dict[str, set[int]] = {name: set() for name in names}
        self.versions: dict[str, int] = dict.fromkeys(names, 0)
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._chance = random.Random(seed)
        self._count = 0
        self._verbs = (self.spawn, self.kill, self.purge, self.start, self.restart, self.configure)

    async def run(self) -> None:
        """Do things until cancelled."""
        with httpx.Client(base_url=self.hive.url, timeout=20) as client:
            self._client = client
            while True:
                name = self._chance.choice(self.names)
                if self.there[name] is False:
                    await self.spawn(name)
                else:
                    await self._chance.choices(self._verbs, (2, 3, 3, 3, 3, 4))[0](name)
                await trio.sleep(self._chance.uniform(0, 0.05))

    # --- verbs -----------------------------------------------------------------------------------------

    async def spawn(self, name: str) -> None:
        was = self.there[name]
        self._count += 1
        value = self._count
        self.there[name] = None if not was else True
        if not was:
            self.values[name] = self.values[name] | {value}
        body = {"node_name": name, "runtime": "wf.sleep", "tenant_id": TENANT, "config": {"value": value}}
        code = await self._ask("POST", "/hives/motherbee/nodes", body)
        if code == "ok":
            if was:
                self.wrong.append(f"{name} was lost: it could be spawned again")
            self.there[name], self.values[name], self.versions[name] = True, {value}, 1
        elif code == "NODE_ALREADY_EXISTS":
            if was is False:
                self.wrong.append(f"{name} exists, though its removal was answered")
            self.there[name] = True
        elif code == "SPAWN_FAILED":  # the configuration stays (spec/admin-api.md §D.3 step 16)
            self.there[name] = True

    async def kill(self, name: str) -> None:
        await self._ask("DELETE", self._path(name), {"force": self._chance.random() < 0.5})

    async def purge(self, name: str) -> None:
        self.there[name] = None
        answer = await self._ask("DELETE", self._path(name), {"force": True, "purge_instance": True})
        if answer in ("ok", "not_found"):
            self.there[name], self.values[name], self.versions[name] = False, set(), 0

    async def start(self, name: str) -> None:
        await self._change(name, "start")

    async def restart(self, name: str) -> None:
        await self._change(name, "restart")

    async def _change(self, name: str, verb: str) -> None:
        self._found(name, await self._ask("POST", self._path(name, f"/{verb}"), {}))

    async def configure(self, name: str) -> None:
        self._count += 1
        value = self._count
        before = self.values[name]
        self.values[name] = before | {value}
        code = await self._ask("PUT", self._path(name, "/config"), {"value": value})
        if code == "ok":
            self.values[name] = {value}
            version = self._body["payload"]["config_version"]
            if version <= self.versions[name]:
                self.wrong.append(f"{name}: version {version} after {self.versions[name]}")
            self.versions[name] = version
        self._found(name, code)

    def _found(self, name: str, code: str) -> None:
        if code == "NODE_CONFIG_NOT_FOUND":
            if self.there[name]:
                self.wrong.append(f"{name} was lost: it has no configuration")
            self.there[name], self.values[name] = False, set()
        elif code == "ok":
            if self.there[name] is False:
                self.wrong.append(f"{name} is there, though its removal was answered")
            self.there[name] = True

    # --- inside ----------------------------------------------------------------------------------------

    def _path(self, name: str, rest: str = "") -> str:
        return f"/hives/motherbee/nodes/{name}{rest}"

    async def _ask(self, method: str, path: str, body: Json) -> str:
        """``ok``, ``not_found``, an error code, or ``lost`` when nobody knows."""
        try:
            send = partial(self._client.request, method, path, content=json.dumps(body))
            answer = await trio.to_thread.run_sync(send)
            self._body = answer.json()
        except (httpx.TransportError, ValueError):
            code = "lost"
        else:
            payload = self._body.get("payload") or {}
            code = payload.get("status", "ok") if self._body["status"] == "ok" else self._body["error_code"]
            if code in (
                "TIMEOUT",
                "TRANSPORT_ERROR",
                "SERVICE_FAILED",
                "UNREACHABLE",
                "NODE_NOT_FOUND",
                "BUSY",
            ):
                code = "lost"
        self.answers[f"{method} {path.rpartition('/')[2] if method in ('POST', 'PUT') else ''} {code}"] += 1
        return code

    # --- the reckoning ---------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare the book with the disk; the hive has calmed down."""
        for name in self.names:
            path = self.hive.paths.nodes / "WF" / f"{name}@motherbee" / "config.json"
            if self.there[name] is not None and path.exists() != self.there[name]:
                self.wrong.append(f"{name}: on disk {path.exists()}, answered {self.there[name]}")
            if not path.exists():
                continue
            config = json.loads(path.read_text())
            if self.values[name] and config["value"] not in self.values[name]:
                self.wrong.append(f"{name}: {config['value']} on disk, answered {self.values[name]}")
            if config["_system"]["config_version"] < self.versions[name]:
                self.wrong.append(f"{name}: version went back to {config['_system']['config_version']}")

    def wanted(self) -> set[str]:
        """Who has an instance."""
        nodes = self.hive.paths.nodes / "WF"
        return {name for name in self.names if (nodes / f"{name}@motherbee" / "config.json").exists()}
