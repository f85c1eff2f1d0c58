"""``fluxbee node …``: be a node, run one, manage those of a hive.

The group and the smallest verb, ``echo``; the others have a module each.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from .frame import Verbs, add_verb, add_verb_group
from .node_config import add_config_verbs
from .node_hold import add_hold_verb
from .node_life import add_life_verbs
from .node_run import add_run_verb
from .output import ExitCode, clean, paint
from .places import add_root_argument, hive_paths, until_told, visitor

__all__ = ["add_parser"]


def add_parser(verbs: Verbs) -> None:
    """Add ``node``."""
    group = add_verb_group(
        verbs,
        "node",
        summary="be a node, or manage nodes",
        examples=[
            ("fluxbee node echo AI.echo", "answer every message with its own text"),
            ("fluxbee node run greeter.py", "run a node that is a Python file"),
            ("fluxbee node list", "show the nodes of a hive"),
            ("fluxbee node spawn AI.echo --runtime ai.echo --wait", "start one from a published package"),
        ],
    )
    echo = add_verb(
        group,
        "echo",
        _echo,
        summary="connect as NAME and answer every message with its own payload",
        details="Runs until Ctrl-C or SIGTERM. A reconnect is done by itself when the router restarts.",
        examples=[
            ("fluxbee node echo AI.echo", "then, in another shell: fluxbee send AI.echo@motherbee hola"),
            ("fluxbee node echo AI.echo --quiet", "print nothing for each message"),
        ],
    )
    echo.add_argument("name", metavar="NAME", help="L2 name, such as AI.echo")
    echo.add_argument("--quiet", action="store_true", help="do not print the messages")
    add_root_argument(echo)
    add_run_verb(group)
    add_hold_verb(group)
    add_life_verbs(group)
    add_config_verbs(group)


def _echo(args: argparse.Namespace) -> int:
    import trio

    from appliance.wire.names import check_local_name

    check_local_name(args.name, "NAME")
    trio.run(until_told, partial(_serve_echo, args))
    return ExitCode.OK


async def _serve_echo(args: argparse.Namespace) -> None:
    from appliance.sdk import reply
    from appliance.sdk.replies import deserves_answer

    async with visitor(hive_paths(args), args.name) as node:
        sys.stderr.write(
            f"{paint(node.full_name, 'bold', sys.stderr)} is connected to {node.router_name} "
            f"(VPN {node.vpn_id}); Ctrl-C ends it\n"
        )
        async for message in node.receiver:
            if not args.quiet:
                origin = message.source_l2_name or message.routing.src
                sys.stdout.write(f"{clean(origin)}  {clean(bytes(message.payload).decode()[:300])}\n")
                sys.stdout.flush()
            if deserves_answer(message):
                await node.send(reply(message, message.payload, src=node.uuid))
