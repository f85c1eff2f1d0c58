"""``fluxbee node list|spawn|start|restart|kill|rm|status``: the nodes of a hive, from birth to oblivion.

``kill`` ends the process and keeps the instance: it comes back with the hive, or with ``start``. ``rm``
forgets the instance with its configuration and state.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from appliance.wire.errors import Busy, NotFound, Unavailable

from .frame import Verbs, add_verb, completes
from .operate import Operator, add_operator_arguments, given_config, show, spinning, when
from .output import ExitCode, clean, paint, print_fields, print_table

__all__ = ["add_life_verbs"]

POLL_S = 0.3
_APPLIANCE_KINDS = ("SY", "RT")


def add_life_verbs(group: Verbs) -> None:
    """Add the verbs to ``node``."""
    _add_list(group)
    _add_spawn(group)
    for name, handler, summary in (
        ("start", _start, "start a node that was spawned before and does not run"),
        ("restart", _start, "stop a node and start it again"),
    ):
        verb = add_verb(
            group,
            name,
            handler,
            summary=summary,
            examples=[(f"fluxbee node {name} AI.echo --wait", "and wait until it is there")],
        )
        verb.set_defaults(act=name)
        _add_wait(verb)
        _add_name(verb)
    kill = add_verb(
        group,
        "kill",
        _kill,
        summary="end a node's process; its configuration stays",
        details="It is asked to end, and ended after its grace period. Ends with 6 when it does not run.",
        examples=[
            ("fluxbee node kill AI.echo", "it starts again with the hive, or with `node start`"),
            ("fluxbee node kill AI.echo --force", "at once, without asking"),
        ],
    )
    kill.add_argument("--force", action="store_true", help="SIGKILL, without asking first")
    kill.add_argument("--purge", action="store_true", help="also forget the instance, as `node rm` does")
    _add_name(kill)
    remove = add_verb(
        group,
        "rm",
        _remove,
        summary="forget a node: its configuration, its state, its secrets",
        examples=[
            ("fluxbee node rm AI.echo", "a node that does not run"),
            ("fluxbee node rm AI.echo --force", "end it first if it runs"),
        ],
    )
    remove.add_argument("--force", action="store_true", help="end it first if it runs")
    _add_name(remove)
    status = add_verb(
        group,
        "status",
        _status,
        summary="show how a node does: process, health, configuration",
        details="Ends with 0 when it runs and is healthy, with 1 when not, with 6 when nobody knows it.",
        examples=[
            ("fluxbee node status AI.echo", "for people"),
            ("fluxbee node status AI.echo --json", "all"),
        ],
    )
    _add_name(status)


def _add_name(verb: argparse.ArgumentParser) -> None:
    add_operator_arguments(verb)
    verb.add_argument("name", metavar="NAME", help="L2 name, such as AI.echo or AI.echo@hive")


def _add_wait(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--wait", action="store_true", help="until it is RUNNING: connected to the router")
    verb.add_argument("--timeout", metavar="S", type=float, default=60.0, help="longest wait (default 60)")


# --- list ------------------------------------------------------------------------------------------------


def _add_list(group: Verbs) -> None:
    verb = add_verb(
        group,
        "list",
        _list,
        summary="show the nodes of a hive",
        examples=[
            ("fluxbee node list", "agents, edges, workflows: connected or managed"),
            ("fluxbee node list --all", "with the appliance's own"),
            ("fluxbee node list --kind AI --json", "for programs"),
        ],
    )
    verb.add_argument("--all", action="store_true", help="also the appliance's own nodes")
    verb.add_argument("--kind", choices=["AI", "IO", "WF", "SY", "RT"], help="only this kind")
    add_operator_arguments(verb)


def _list(args: argparse.Namespace) -> int:
    operator = Operator(args)
    show(args, operator.get(operator.hive_path("nodes")), lambda payload: _print_list(args, payload))
    return ExitCode.OK


def _print_list(args: argparse.Namespace, payload: dict[str, object]) -> None:
    found = payload.get("nodes")
    nodes = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    if args.kind:
        shown = [one for one in nodes if one.get("kind") == args.kind]
    else:
        shown = [one for one in nodes if args.all or one.get("kind") not in _APPLIANCE_KINDS]
    rows = []
    for one in sorted(shown, key=lambda one: str(one.get("name"))):
        runtime = one.get("runtime")
        software = f"{runtime.get('name')} {runtime.get('version')}" if isinstance(runtime, dict) else ""
        state = one.get("lifecycle_state") or ("connected" if one.get("uuid") else one.get("status"))
        rows.append(
            (
                one.get("name"),
                state,
                one.get("health_state"),
                software,
                one.get("vpn_id"),
                when(one.get("connected_at")),
            )
        )
    print_table(("node", "state", "health", "runtime", "vpn", "connected"), rows)
    hidden = len(nodes) - len(shown)
    if hidden and not args.kind:
        sys.stderr.write(
            paint(f"{hidden} nodes of the appliance itself are not shown (--all)\n", "dim", sys.stderr)
        )


# --- spawn, start, restart -------------------------------------------------------------------------------


def _add_spawn(group: Verbs) -> None:
    verb = add_verb(
        group,
        "spawn",
        _spawn,
        summary="make a node from a published runtime and start it",
        details=(
            "The hive keeps it running from then on, over restarts, too. What --config and --set say\n"
            "goes on top of the package's own configuration."
        ),
        examples=[
            ("fluxbee node spawn AI.echo --runtime ai.echo --wait", "and wait until it is there"),
            ('fluxbee node spawn AI.bot --runtime ai.openai --set model="gpt-4o"', "with a setting"),
            ("fluxbee node spawn AI.bot --runtime ai.openai --config bot.json", "with a file of settings"),
        ],
    )
    verb.add_argument("name", metavar="NAME", help="L2 name, such as AI.echo or AI.echo@hive")
    verb.add_argument(
        "--runtime", metavar="RUNTIME", help="package (default: from the name, AI.echo -> ai.echo)"
    )
    verb.add_argument("--version", metavar="V", dest="runtime_version", help="its version (default: current)")
    verb.add_argument(
        "--tenant", metavar="TNT", help="tenant, tnt:<uuid> (default: $TENANT_ID, the hive's own)"
    )
    _add_config(verb)
    _add_wait(verb)
    add_operator_arguments(verb)


def _add_config(verb: argparse.ArgumentParser) -> None:
    config = verb.add_argument(
        "--config", metavar="FILE|JSON", help="configuration: a file, or JSON in place"
    )
    completes(config, "file")
    verb.add_argument(
        "--set", metavar="K=V", action="append", help="one setting: JSON, text, or @FILE (may be repeated)"
    )


def _spawn(args: argparse.Namespace) -> int:
    operator = Operator(args)
    config = given_config(args)
    body: dict[str, object] = {
        "node_name": args.name,
        "runtime": args.runtime,
        "runtime_version": args.runtime_version,
        "tenant_id": args.tenant or os.environ.get("TENANT_ID") or None,
        "config": config or None,
    }
    hive = args.name.rpartition("@")[2] if "@" in args.name else operator.hive
    from .api import quoted

    answer = operator.ask(
        "POST",
        f"/hives/{quoted(hive)}/nodes",
        {key: value for key, value in body.items() if value is not None},
    )
    if args.wait:
        _wait_running(operator, str(answer.fields().get("node_name") or args.name), args.timeout)

    def people(payload: dict[str, object]) -> None:
        name = paint(clean(payload.get("node_name")), "bold", sys.stdout)
        software = f"{clean(payload.get('runtime'))} {clean(payload.get('version'))}"
        already = " (was running already)" if payload.get("state") == "already_running" else ""
        sys.stdout.write(f"{name} {'runs' if args.wait else 'is started'}: {software}{already}\n")

    show(args, answer, people)
    return ExitCode.OK


def _start(args: argparse.Namespace) -> int:
    operator = Operator(args)
    answer = operator.ask("POST", operator.node_path(args.name, args.act), {})
    if args.wait:
        _wait_running(operator, args.name, args.timeout)

    def people(payload: dict[str, object]) -> None:
        state = clean(payload.get("state") or "started").replace("_", " ")
        sys.stdout.write(f"{paint(clean(payload.get('node_name')), 'bold', sys.stdout)} {state}\n")

    show(args, answer, people)
    return ExitCode.OK


def _wait_running(operator: Operator, name: str, timeout_s: float) -> None:
    """Until the node is RUNNING.

    Raises:
        Unavailable: it has failed; the message has the end of its log.
        Busy: it is not there in time.
    """
    deadline = time.monotonic() + timeout_s
    state, restarts = "", 0
    with spinning(name) as turn:
        while True:
            status = _node_status(operator, name)
            state, restarts = str(status.get("lifecycle_state")), _restarts(status)
            if state == "RUNNING":
                return
            if state == "FAILED" or time.monotonic() >= deadline:
                break
            turn(f"{state}, restarted {restarts} times" if restarts else state)
            time.sleep(POLL_S)
    end = _log_end(operator, name)
    if state == "FAILED":
        raise Unavailable(f"{name} has failed{end}", code="NODE_FAILED", remedy="Its log says why.")
    raise Busy(
        f"{name} is {state} after {timeout_s:g} s, restarted {restarts} times{end}",
        code="TIMEOUT",
        remedy=f"`fluxbee node logs {name}` shows what it says.",
    )


def _node_status(operator: Operator, name: str) -> dict[str, object]:
    found = operator.get(operator.node_path(name, "status")).fields().get("node_status")
    return found if isinstance(found, dict) else {}


def _restarts(status: dict[str, object]) -> int:
    process = status.get("process")
    count = process.get("restart_count") if isinstance(process, dict) else 0
    return count if isinstance(count, int) else 0


def _log_end(operator: Operator, name: str) -> str:
    try:
        lines = operator.get(operator.node_path(name, "logs"), {"tail": 10}).fields().get("lines")
    except (NotFound, Unavailable):
        return ""
    return "\n" + "\n".join(map(str, lines)) if isinstance(lines, list) and lines else ""


# --- kill, rm, status ------------------------------------------------------------------------------------


def _kill(args: argparse.Namespace) -> int:
    operator = Operator(args)
    body = {"force": args.force, "purge_instance": args.purge}
    answer = operator.ask("DELETE", operator.node_path(args.name), body)
    absent = answer.fields().get("status") == "not_found"

    def people(payload: dict[str, object]) -> None:
        name = paint(clean(payload.get("node_name") or args.name), "bold", sys.stdout)
        said = "did not run" if absent else f"ended ({clean(payload.get('signal'))})"
        sys.stdout.write(f"{name} {said}{' and is forgotten' if payload.get('instance_purged') else ''}\n")

    show(args, answer, people)
    return ExitCode.NOT_FOUND if absent and not answer.fields().get("instance_purged") else ExitCode.OK


def _remove(args: argparse.Namespace) -> int:
    operator = Operator(args)
    path = operator.node_path(args.name)
    if args.force:
        operator.ask("DELETE", path, {"force": False})
    answer = operator.ask("DELETE", f"{path}/instance", {})
    absent = answer.fields().get("status") == "not_found"

    def people(payload: dict[str, object]) -> None:
        name = paint(clean(payload.get("node_name") or args.name), "bold", sys.stdout)
        sys.stdout.write(f"{name} {'was not there' if absent else 'is forgotten'}\n")

    show(args, answer, people)
    return ExitCode.NOT_FOUND if absent else ExitCode.OK


def _status(args: argparse.Namespace) -> int:
    operator = Operator(args)
    answer = operator.get(operator.node_path(args.name, "status"))
    show(args, answer, _print_status)
    found = answer.fields().get("node_status")
    status = found if isinstance(found, dict) else {}
    is_well = status.get("lifecycle_state") == "RUNNING" and status.get("health_state") in (
        "HEALTHY",
        "UNKNOWN",
    )
    return ExitCode.OK if is_well else ExitCode.FAILED


def _print_status(payload: dict[str, object]) -> None:
    status = _part(payload, "node_status")
    runtime, process = _part(status, "runtime"), _part(status, "process")
    config, identity = _part(status, "config"), _part(status, "identity")
    sys.stdout.write(f"{paint(clean(status.get('node_name')), 'bold', sys.stdout)}\n")
    error = status.get("last_error")
    source = str(status.get("health_source") or "").replace("_", " ").lower()
    told_by = f" ({source})" if source not in ("", "unknown") else ""
    state = status.get("lifecycle_state")
    print_fields(
        [
            ("state", state),
            ("health", f"{status.get('health_state')}{told_by}"),
            ("last error", _short(error)),
            (
                "runtime",
                f"{runtime.get('name')} {runtime.get('resolved_version') or ''}"
                if runtime.get("name")
                else "",
            ),
            ("pid", process.get("pid")),
            ("started", process.get("started_at")),
            ("restarts", process.get("restart_count")),
            ("exit code", process.get("exit_code") if state in ("STOPPED", "FAILED") else None),
            ("config", _config_text(config)),
            ("ilk", identity.get("ilk_id")),
            ("tenant", identity.get("tenant_id")),
            ("reports", _short(status.get("extensions"))),
        ]
    )


def _part(value: dict[str, object], key: str) -> dict[str, object]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _config_text(config: dict[str, object]) -> str:
    if not config.get("exists"):
        return ""
    broken = "" if config.get("valid") else ", NOT VALID"
    return f"version {config.get('config_version')}{broken}, {config.get('path')}"


def _short(value: object) -> str:
    import json

    if isinstance(value, dict) and isinstance(value.get("message"), str):
        return f"{value.get('code') or 'ERROR'}: {value['message']}"
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
