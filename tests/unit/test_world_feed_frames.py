"""Frames as a client's library reads them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from appliance.world.feed_frames import frames_of, lagged_frame, text_frame
from appliance.world.updates import Update


def read(data: bytes) -> list[str]:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(data)
    texts, part = [], ""
    for event in client.events():
        assert isinstance(event, TextMessage)
        part += event.data
        if event.message_finished:
            texts.append(part)
            part = ""
    return texts


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_a_frame_of_any_length_is_one_message(size: int) -> None:
    assert read(text_frame(b"x" * size) * 2) == ["x" * size] * 2


@given(entity=st.text(max_size=20), name=st.text(max_size=20), value=st.text(max_size=20))
def test_ids_and_names_of_any_kind_arrive(entity: str, name: str, value: str) -> None:
    (text,) = read(frames_of(Update(1, entity, 0, {name: value})))
    assert json.loads(text) == {
        "type": "state_update",
        "entity_id": entity,
        "property": name,
        "value": value,
        "timestamp": "1970-01-01T00:00:00Z",
        "seq": 1,
    }


def test_a_lag_is_told_with_the_number_of_events() -> None:
    (text,) = read(lagged_frame(12, at_ms=1500))
    assert text == '{"type":"lagged","events":12,"timestamp":"1970-01-01T00:00:01.500Z"}'
