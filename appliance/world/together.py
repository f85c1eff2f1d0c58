"""Publishing of many small requests as one commit: for senders that do not wait between their requests.

Requests of one caller that lie behind one another become one batch, in order, and each gets its own report.
What is wrong with the text of one request is that request's alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from appliance.wire.errors import FluxbeeError, Invalid

from .engine import WorldEngine
from .types import BatchReport, Caller

__all__ = ["Outcome", "Wanted", "publish_together"]


class Wanted(msgspec.Struct, frozen=True):
    """One request: JSON texts of events, each one value, and who sends them."""

    caller: Caller
    events: Sequence[bytes | msgspec.Raw]


Outcome = BatchReport | FluxbeeError
"""What became of a request; an error means that none of its events were stored."""


async def publish_together(engine: WorldEngine, wanted: Sequence[Wanted]) -> list[Outcome]:
    """Publish; returns an outcome for each request, in order."""
    outcomes: list[Outcome] = []
    start = 0
    while start < len(wanted):
        end = start + 1
        while end < len(wanted) and wanted[end].caller == wanted[start].caller:
            end += 1
        outcomes += await _publish(engine, wanted[start:end])
        start = end
    return outcomes


async def _publish(engine: WorldEngine, group: Sequence[Wanted]) -> list[Outcome]:
    texts = [bytes(event) for one in group for event in one.events]
    try:
        report = await engine.publish_batch(b'{"events":[%b]}' % b",".join(texts), group[0].caller)
    except Invalid as error:
        if len(group) == 1:
            return [error]
        return [outcome for one in group for outcome in await _publish(engine, [one])]
    except FluxbeeError as error:
        return [error] * len(group)
    outcomes: list[Outcome] = []
    first = 0
    for one in group:
        results = report.results[first : first + len(one.events)]
        first += len(one.events)
        failed = sum(result.error is not None for result in results)
        outcomes.append(BatchReport(successful=len(results) - failed, failed=failed, results=results))
    return outcomes
