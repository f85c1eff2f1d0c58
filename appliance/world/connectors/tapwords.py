"""What is shown of a tap that failed: how it ended and the last of what it said, without any secret. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import msgspec

from .book import Secrets

__all__ = ["ended_words", "redacted", "secrets_of"]

_WORDS: Final = 380
_SHORTEST_SECRET: Final = 4

_object = msgspec.json.Decoder(dict[str, object])


def ended_words(exit_: str) -> str:
    """How a run ended, after the tap's name; ``exit_`` as ``TapChild.exit``."""
    if exit_.startswith("exit "):
        return f"exited with code {exit_.removeprefix('exit ')}"
    if exit_.startswith("signal "):
        return f"was ended by signal {exit_.removeprefix('signal ')}"
    return exit_.partition(". ")[0] or "ended and nobody saw how"


def secrets_of(config: Secrets, flux: Secrets | None) -> Iterator[str]:
    """Every text of a configuration that may be a secret, also as other texts quote it."""
    texts = [config.access] + ([] if flux is None else [flux.access])
    with suppress(msgspec.MsgspecError):
        texts += _leaves(_object.decode(config.access))
    for text in texts:
        for line in text.splitlines():
            if len(line) >= _SHORTEST_SECRET:
                yield from {
                    line,
                    line.strip(),
                    quote(line, safe=""),
                    json.dumps(line)[1:-1],
                    repr(line)[1:-1],
                }


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)


def redacted(text: str, hidden: Iterable[str]) -> str:
    """The end of ``text`` fit to be shown after a colon: one line, printable, nothing of ``hidden`` in it."""
    for secret in sorted(set(hidden), key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    words = " | ".join(line.strip() for line in text.splitlines() if line.strip())
    shown = "".join(one if one.isprintable() else _escaped(one) for one in words[-_WORDS:])
    return f": {shown[-_WORDS:]}" if shown else ""


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
