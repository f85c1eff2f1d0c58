"""``fluxbee node config|control|state|logs``: what a node is told, and what it says.

``config`` is ``config.json``, which the hive writes and the node follows; ``control`` is the node's own
runtime configuration by message, the place for secrets.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from appliance.wire.errors import Invalid, Refused

from .frame import Verbs, add_verb, add_verb_group, completes
from .operate import Operator, add_operator_arguments, given_config, show
from .output import ExitCode, clean, paint, print_fields, print_json

__all__ = ["add_config_verbs"]

_SYSTEM_KEY = "_system"


def add_config_verbs(group: Verbs) -> None:
    """Add the verbs to ``node``."""
    _add_config(group)
    _add_control(group)
    state = add_verb(
        group,
        "state",
        _state,
        summary="show what a node has written into its state.json",
        examples=[("fluxbee node state AI.echo", "null when it has written nothing")],
    )
    _add_name(state)
    logs = add_verb(
        group,
        "logs",
        _logs,
        summary="show what a node has printed",
        examples=[
            ("fluxbee node logs AI.echo", "the last 200 lines"),
            ("fluxbee node logs AI.echo -f", "and what comes, until Ctrl-C"),
        ],
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    logs.add_argument("--tail", metavar="N", type=int, default=200, help="lines to begin with (default 200)")
    _add_name(logs)


def _add_name(verb: argparse.ArgumentParser) -> None:
    add_operator_arguments(verb)
    verb.add_argument("name", metavar="NAME", help="L2 name, such as AI.echo or AI.echo@hive")


def _add_settings(verb: argparse.ArgumentParser) -> None:
    completes(verb.add_argument("--config", metavar="FILE|JSON", help="a file, or JSON in place"), "file")
    verb.add_argument(
        "--set", metavar="K=V", action="append", help="one setting: JSON, text, or @FILE (may be repeated)"
    )


# --- config.json -----------------------------------------------------------------------------------------


def _add_config(group: Verbs) -> None:
    config = add_verb_group(
        group,
        "config",
        summary="read or change a node's config.json",
        examples=[('fluxbee node config set AI.echo --set prefix="> "', "the node follows at once")],
    )
    get = add_verb(
        config,
        "get",
        _config_get,
        summary="show a node's config.json",
        examples=[("fluxbee node config get AI.echo", "as JSON, without the hive's own part")],
    )
    get.add_argument("--system", action="store_true", help="with the part that the hive keeps in it")
    _add_name(get)
    change = add_verb(
        config,
        "set",
        _config_set,
        summary="change a node's config.json and tell the node",
        details="Top-level keys are replaced, all others stay; --replace drops the others.",
        examples=[
            ("fluxbee node config set AI.bot --set temperature=0.2", "one key"),
            ("fluxbee node config set AI.bot --config bot.json --replace", "this file and nothing else"),
        ],
    )
    change.add_argument("--replace", action="store_true", help="what is not given is dropped")
    change.add_argument("--no-notify", action="store_true", help="do not tell the node")
    _add_settings(change)
    _add_name(change)


def _config_get(args: argparse.Namespace) -> int:
    operator = Operator(args)
    answer = operator.get(operator.node_path(args.name, "config"))

    def people(payload: dict[str, object]) -> None:
        found = payload.get("config")
        config = found if isinstance(found, dict) else {}
        print_json(config if args.system else {k: v for k, v in config.items() if k != _SYSTEM_KEY})

    show(args, answer, people)
    return ExitCode.OK


def _config_set(args: argparse.Namespace) -> int:
    operator = Operator(args)
    config = given_config(args)
    if not config and not args.replace:
        raise Invalid("give what to change, with --set or --config", field="--set")
    query = [word for word, on in (("replace=1", args.replace), ("notify=0", args.no_notify)) if on]
    path = operator.node_path(args.name, "config") + ("?" + "&".join(query) if query else "")
    answer = operator.ask("PUT", path, config)

    def people(payload: dict[str, object]) -> None:
        told = clean(payload.get("notify_status"))
        name = paint(clean(payload.get("node_name")), "bold", sys.stdout)
        words = {"sent": "told", "skipped": "not told"}.get(told, told)
        sys.stdout.write(f"{name} has version {clean(payload.get('config_version'))}; {words}\n")

    show(args, answer, people)
    return ExitCode.OK


# --- configuration by message ----------------------------------------------------------------------------


def _add_control(group: Verbs) -> None:
    control = add_verb_group(
        group,
        "control",
        summary="read or set a running node's own configuration, secrets included",
        examples=[("fluxbee node control set AI.bot --set api_key=@key.txt", "a secret, from a file")],
    )
    get = add_verb(
        control,
        "get",
        _control_get,
        summary="ask a running node for its configuration and its contract",
        examples=[("fluxbee node control get AI.bot", "secrets are not shown")],
    )
    _add_name(get)
    change = add_verb(
        control,
        "set",
        _control_set,
        summary="give a running node a configuration of its own",
        details=(
            "It replaces what was given before; the node checks it and may refuse. Secrets go into a file\n"
            "that only the node reads, and are never shown again."
        ),
        examples=[
            ("fluxbee node control set AI.bot --set api_key=@key.txt", "a secret, from a file"),
            ("fluxbee node control set AI.bot --config bot.json", "a file of settings"),
        ],
    )
    change.add_argument("--config-version", metavar="N", type=int, help="number (default: by the clock)")
    _add_settings(change)
    _add_name(change)


def _control_get(args: argparse.Namespace) -> int:
    operator = Operator(args)
    answer = operator.ask("POST", operator.node_path(args.name, "control", "config-get"), {})
    response = _response(answer.fields())

    def people(payload: dict[str, object]) -> None:
        print_fields([("state", response.get("state")), ("version", response.get("config_version"))])
        print_json(response.get("effective_config"))

    show(args, answer, people)
    return ExitCode.OK


def _control_set(args: argparse.Namespace) -> int:
    operator = Operator(args)
    body = {
        "schema_version": 1,
        "config_version": args.config_version
        if args.config_version is not None
        else time.time_ns() // 1_000_000,
        "apply_mode": "replace",
        "config": given_config(args),
        "requested_by": "fluxbee",
    }
    answer = operator.ask("POST", operator.node_path(args.name, "control", "config-set"), body)
    response = _response(answer.fields())

    def people(payload: dict[str, object]) -> None:
        name = paint(clean(payload.get("node_name")), "bold", sys.stdout)
        sys.stdout.write(f"{name} has version {clean(response.get('config_version'))}\n")

    show(args, answer, people)
    return ExitCode.OK


def _response(payload: dict[str, object]) -> dict[str, object]:
    """The node's own answer.

    Raises:
        Refused: the node said no.
    """
    found = payload.get("response")
    response = found if isinstance(found, dict) else {}
    if payload.get("node_ok") is False or response.get("ok") is False:
        told = payload.get("node_error") or response.get("error")
        error = told if isinstance(told, dict) else {}
        text = error.get("message") or error.get("detail") or "the node does not say why"
        raise Refused(
            f"the node refuses: {text}",
            code=str(error.get("code") or "NODE_REFUSED"),
            remedy="`fluxbee node control get` shows what it takes.",
        )
    return response


# --- state, logs -----------------------------------------------------------------------------------------


def _state(args: argparse.Namespace) -> int:
    operator = Operator(args)
    answer = operator.get(operator.node_path(args.name, "state"))
    show(args, answer, lambda payload: print_json(payload.get("state")))
    return ExitCode.OK


def _logs(args: argparse.Namespace) -> int:
    operator = Operator(args)
    path = operator.node_path(args.name, "logs")
    if args.follow:
        for line in operator.api.stream(f"{path}?tail={args.tail}&follow=1"):
            sys.stdout.write(f"{json.dumps({'line': line}) if args.json else clean(line)}\n")
            sys.stdout.flush()
        return ExitCode.OK

    def people(payload: dict[str, object]) -> None:
        lines = payload.get("lines")
        for line in lines if isinstance(lines, list) else ():
            sys.stdout.write(f"{clean(line)}\n")
        if payload.get("dropped_bytes"):
            told = f"{payload['dropped_bytes']} bytes were dropped: the node printed too fast\n"
            sys.stderr.write(paint(told, "yellow", sys.stderr))

    show(args, operator.get(path, {"tail": args.tail}), people)
    return ExitCode.OK
