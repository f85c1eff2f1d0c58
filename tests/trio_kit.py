"""Tests that are coroutines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec

import trio

__all__ = ["on_trio"]

P = ParamSpec("P")
_PATIENCE_S = 30


def on_trio(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """A test that is a coroutine, run by trio; one that hangs fails."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            with trio.fail_after(_PATIENCE_S):
                await test(*args, **kwargs)

        trio.run(bounded)

    return run
