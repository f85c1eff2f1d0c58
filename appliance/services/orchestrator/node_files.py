"""Configuration, state and log of a node, read and changed on disk (``spec/admin-api.md §D.7, §B.6.5-6``).

A change is told to the node by CONFIG_CHANGED; a node that does not hear it reads its file when it starts.
Files of stopped nodes are changed alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from appliance.supervise.environment import hand_over
from appliance.supervise.instance import Instance
from appliance.supervise.names import NodeName
from appliance.supervise.node_config import SYSTEM_PATCHES, check_patch, config_version, patched_config
from appliance.supervise.nodelog import read_tail
from appliance.wire import verbs
from appliance.wire.envelope import system_message
from appliance.wire.errors import FluxbeeError, Invalid

from .asked import flag, node_of, refuse_legacy, text
from .forward import forward
from .house import Handler, House, Payload, Request

__all__ = ["NodeFileVerbs"]

_LINES: Final = 200
_MOST_LINES: Final = 2000
_LOG_BYTES: Final = 96 * 1024
"""What of a log goes into one answer; a frame has 128 KiB."""


class NodeFileVerbs:
    """Handles ``get_node_config``, ``set_node_config``, ``get_node_state`` and ``get_node_logs``."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.handlers: Mapping[str, Handler] = {
            "get_node_config": self.get_node_config,
            "set_node_config": self.set_node_config,
            "get_node_state": self.get_node_state,
            "get_node_logs": self.get_node_logs,
        }

    async def get_node_config(self, request: Request, source: str) -> Payload:
        """The file as stored."""
        name = node_of(request, self._house.hive)
        if name.hive != self._house.hive:
            return await forward(self._house, "get_node_config", request, name.hive)
        instance = Instance(self._house.paths, name.full)
        answer = self._where(name, str(instance.config_path))
        config = await self._read(instance, answer)
        return {**answer, "config_version": config_version(config), "config": config}

    async def set_node_config(self, request: Request, source: str) -> Payload:
        """Lay a patch over the file, or replace it; ``_system`` stays and its version grows."""
        refuse_legacy(request, "name", "version")
        house = self._house
        name = node_of(request, house.hive)
        patch = _patch_of(request)
        system_patch = {key: value for key in SYSTEM_PATCHES if (value := text(request, key)) is not None}
        replace = flag(request, "replace", default=False)
        notify = flag(request, "notify", default=True)
        if name.hive != house.hive:
            return await forward(house, "set_node_config", request, name.hive)
        instance = Instance(house.paths, name.full)
        answer = self._where(name, str(instance.config_path))
        stored = await self._read(instance, answer)
        fresh = patched_config(
            stored,
            patch,
            replace=replace,
            system_patch=system_patch,
            name=name,
            now_ms=house.clock.wall_ms(),
        )
        try:
            await trio.to_thread.run_sync(self._write, instance, fresh, limiter=house.files)
        except FluxbeeError as error:
            raise _at(error, answer) from error
        version = config_version(fresh)
        told = await self._notify(name, patch, version) if notify else "skipped"
        return {**answer, "config_version": version, "notify_status": told}

    async def get_node_state(self, request: Request, source: str) -> Payload:
        """What the node wrote about itself; ``null`` when it wrote nothing or does not exist."""
        name = node_of(request, self._house.hive)
        if name.hive != self._house.hive:
            return await forward(self._house, "get_node_state", request, name.hive)
        instance = Instance(self._house.paths, name.full)
        answer = self._where(name, str(instance.state_path))
        try:
            state = await trio.to_thread.run_sync(instance.read_state, limiter=self._house.files)
        except FluxbeeError as error:
            raise _at(error, answer) from error
        return {**answer, "state": state}

    async def get_node_logs(self, request: Request, source: str) -> Payload:
        """The last lines that a node printed."""
        house = self._house
        name = node_of(request, house.hive)
        if name.hive != house.hive:
            raise Invalid(f"logs of {name.hive} are read there", field="target")
        directory = house.paths.node_logs / name.full
        lines = await trio.to_thread.run_sync(read_tail, directory, _lines_of(request), limiter=house.files)
        shown, dropped = _fitting(lines)
        return {
            "status": "ok",
            "target": house.hive,
            "hive": house.hive,
            "node_name": name.full,
            "lines": shown,
            "dropped_bytes": dropped,
        }

    # --- inside ----------------------------------------------------------------------------------------

    def _where(self, name: NodeName, path: str) -> Payload:
        hive = self._house.hive
        return {"status": "ok", "target": hive, "hive": hive, "node_name": name.full, "path": path}

    async def _read(self, instance: Instance, where: Payload) -> dict[str, object]:
        try:
            return await trio.to_thread.run_sync(instance.read_config, limiter=self._house.files)
        except FluxbeeError as error:
            raise _at(error, where) from error

    def _write(self, instance: Instance, config: dict[str, object]) -> None:
        instance.replace_config(config)
        hand_over(instance, self._house.settings.node_user)

    async def _notify(self, name: NodeName, patch: Mapping[str, object], version: int) -> str:
        payload = {
            "subsystem": "node_config",
            "action": "set",
            "auto_apply": True,
            "version": version,
            "config": {"node_name": name.full, "patch": patch},
        }
        try:
            node = self._house.connected()
            message = system_message(
                src=node.uuid,
                dst=name.full,
                verb=verbs.CONFIG_CHANGED,
                payload=payload,
                scope=verbs.SCOPE_GLOBAL,
                target=name.full,
            )
            await node.send(message)
        except FluxbeeError as error:
            return f"dispatch_failed: {error.message}"
        return "sent"


def _patch_of(request: Request) -> dict[str, object]:
    if "config" not in request:
        raise Invalid("config is missing", field="config")
    if not isinstance(request["config"], dict):
        raise Invalid("request body must be a JSON object", field="config")
    return check_patch(request["config"])


def _lines_of(request: Request) -> int:
    value = request.get("tail", _LINES)
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Invalid("tail: expected a number of lines", field="tail")
    return min(value, _MOST_LINES)


def _fitting(lines: list[str]) -> tuple[list[str], int]:
    """The last lines that fit into an answer, and how many bytes were left out."""
    room, first = _LOG_BYTES, len(lines)
    while first > 0:
        room -= 6 * len(lines[first - 1].encode()) if not lines[first - 1].isprintable() else 0
        room -= len(lines[first - 1].encode()) + 4
        if room < 0:
            break
        first -= 1
    return lines[first:], sum(len(line.encode()) + 1 for line in lines[:first])


def _at(error: FluxbeeError, where: Payload) -> FluxbeeError:
    """``error`` with the file that it is about."""
    more = {key: value for key, value in where.items() if key != "status"}
    return type(error)(error.message, code=error.code, remedy=error.remedy, details={**error.details, **more})
