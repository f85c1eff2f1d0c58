"""What tests of managed nodes share: packages in a hive's dist, and questions to SY.orchestrator."""

from __future__ import annotations

import json

import trio

from appliance.wire import verbs
from appliance.wire.envelope import Meta, build_message, system_message

TENANT = "tnt:91ab0000-0000-4000-8000-000000000001"

ECHO = '#!/bin/sh\nexec "$FLUXBEE_BIN" node echo "$FLUXBEE_NODE_NAME" --quiet\n'
SLEEP = "#!/bin/sh\nexec sleep 3600\n"
CRASH = "#!/bin/sh\necho failing\nexit 3\n"


def publish(paths, runtime, script, *, version="1.0.0", files=None, **entry):
    """Put a version of a runtime into the dist tree and the manifest, as operators' scripts do."""
    root = paths.dist / "runtimes"
    package = root / runtime / version
    (package / "bin").mkdir(parents=True, exist_ok=True)
    if script is not None:
        start = package / "bin" / "start.sh"
        start.write_text(script)
        start.chmod(0o755)
    for name, text in (files or {}).items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    manifest = root / "manifest.json"
    known = json.loads(manifest.read_text()) if manifest.exists() else None
    known = known or {"schema_version": 1, "version": 1, "updated_at": None, "runtimes": {}}
    old = known["runtimes"].get(runtime, {"available": []})
    known["runtimes"][runtime] = {
        "available": sorted({*old["available"], version}),
        "current": version,
        "type": "full_runtime",
        **entry,
    }
    known["version"] += 1
    manifest.write_text(json.dumps(known))


async def ask(node, verb, payload, *, timeout_s=25, to="SY.orchestrator@motherbee"):
    """A system request; the payload of the answer."""
    message = system_message(src=node.uuid, dst=to, verb=verb, payload=payload)
    return (await node.request(message, timeout_s=timeout_s)).json()


async def act(node, action, payload, *, timeout_s=25):
    """The admin form."""
    meta = Meta(type=verbs.ADMIN, action=action)
    message = build_message(src=node.uuid, dst="SY.orchestrator@motherbee", payload=payload, meta=meta)
    answer = await node.request(message, timeout_s=timeout_s)
    assert answer.meta.type == verbs.ADMIN
    assert answer.meta.action == action
    return answer.json()


async def status(node, name, *, timeout_s=25):
    answer = await ask(node, verbs.NODE_STATUS_GET, {"node_name": name}, timeout_s=timeout_s)
    assert answer["status"] == "ok", answer
    return answer["node_status"]


async def until(condition, *, timeout_s=15.0, every_s=0.03):
    """Ask an async condition until it gives something; the last answer."""
    with trio.fail_after(timeout_s):
        while True:
            if answer := await condition():
                return answer
            await trio.sleep(every_s)


async def until_lifecycle(node, name, *words, timeout_s=15.0):
    async def reached():
        found = await status(node, name)
        return found if found["lifecycle_state"] in words else None

    return await until(reached, timeout_s=timeout_s)
