"""ai.echo: answers every text with the same text, as its configuration says.

The smallest node that has everything a node needs: a typed configuration that changes while it runs, a clean
stop, and answers to status and configuration requests, which the SDK gives.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec

from appliance.sdk import ManagedConfig, Message, Node, run_node

PACKAGE = Path(__file__).resolve().parent


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``config.json`` of this node."""

    prefix: str = ""
    upper: bool = False


def answer(text: str, settings: Settings) -> str:
    """What ``text`` is answered with."""
    return settings.prefix + (text.upper() if settings.upper else text)


async def main() -> None:
    """Run until SIGTERM or Ctrl-C."""
    config = ManagedConfig(
        Settings, defaults=PACKAGE / "config" / "default-config.json", config_schema="echo_v1"
    )

    async def handler(message: Message, node: Node) -> str:
        return answer(await node.read_text(message), config.values)

    await run_node("AI.echo", handler, control=config.control(), on_system=config.on_system)


if __name__ == "__main__":
    anyio.run(main)
