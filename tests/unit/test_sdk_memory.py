from __future__ import annotations

import json

import msgspec
import pytest

from appliance.sdk.memory import MemoryPackage, memory_of
from appliance.wire.envelope import Message, Meta, build_message, raw_json
from appliance.wire.errors import Invalid

FULL = {
    "package_version": 2,
    "thread_id": "thread:1",
    "dominant_context": {"context_id": "context:1", "label": "billing", "weight": 4.2},
    "dominant_reason": {"reason_id": "reason:1", "label": "urgent", "weight": 3.8},
    "contexts": [{"context_id": "c", "label": "l", "weight": 1.0}],
    "reasons": [{"reason_id": "r", "label": "l", "weight": 1.0}],
    "memories": [
        {
            "memory_id": "m",
            "summary": "s",
            "weight": 1.0,
            "dominant_context_id": "c",
            "dominant_reason_id": "r",
        }
    ],
    "episodes": [{"episode_id": "e", "title": "t", "intensity": 7}],
    "truncated": {
        "applied": True,
        "dropped_contexts": 1,
        "dropped_reasons": 0,
        "dropped_memories": 0,
        "dropped_episodes": 2,
    },
}


def carrying(package: object) -> Message:
    return build_message(src="", dst=None, meta=Meta(type="user", memory_package=raw_json(package)))


def test_the_documented_example_is_read_whole() -> None:
    package = memory_of(carrying(FULL))
    assert package is not None
    assert json.loads(msgspec.json.encode(package)) == FULL


def test_absent_parts_are_empty() -> None:
    assert memory_of(carrying({"package_version": 2, "thread_id": "t"})) == MemoryPackage(
        package_version=2, thread_id="t"
    )
    assert memory_of(build_message(src="", dst=None)) is None


@pytest.mark.parametrize("broken", [{}, [], {"package_version": "2", "thread_id": "t"}])
def test_another_shape_is_invalid(broken: object) -> None:
    with pytest.raises(Invalid) as caught:
        memory_of(carrying(broken))
    assert caught.value.field == "meta.memory_package"
