"""ai.openai: an agent on any endpoint that speaks the OpenAI chat completions API.

This file only puts the parts together; they are in ``agent/``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from agent.agent import Agent
from agent.settings import API_KEY, Settings

from appliance.sdk import ManagedConfig, run_node

PACKAGE = Path(__file__).resolve().parent


async def main(config_file: Path) -> None:
    """Run until SIGTERM or Ctrl-C, with ``config_file`` below what the hive configures."""
    config = ManagedConfig(Settings, defaults=config_file, secrets=[API_KEY], config_schema="openai_v1")
    agent = Agent(config)
    await run_node(
        "AI.openai",
        agent.handle,
        control=config.control(),
        on_system=config.on_system,
        concurrency=config.values.concurrency,
        handler_timeout_s=600.0,  # the agent keeps the deadline of its configuration itself
    )


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE / "config" / "default-config.json"
    trio.run(main, given)
