"""Images and copies of the state."""

from __future__ import annotations

import io

import pytest

from appliance.store.layouts import WORLD_REGION
from appliance.store.region import Environment
from appliance.store.region_admit import WORLD
from appliance.wire.errors import Damaged, Invalid, Unavailable
from appliance.world import AdminConfig, Namespace
from appliance.world.entities import entity_json
from appliance.world.image import BACKUP_MAGIC, ImageHead, image, parse, read_copy, write_copy
from appliance.world.view import WorldView

HEAD = ImageHead(
    seq=9,
    config=AdminConfig(),
    namespaces=[Namespace(namespace_id="ns_1", name="plant", created_at_ms=1, token_sha256=b"\xff" * 32)],
)


def row(head: int, text: bytes) -> bytes:
    return head.to_bytes(8, "big") + text


@pytest.fixture
def records(tmp_path):
    with Environment(WORLD, tmp_path, (WORLD_REGION,)) as env:
        view = WorldView(env, 1000)
        view.reset("x")
        rows = [
            (b"a", row(3, entity_json("a", {"p": 1}, 5, 3))),
            (b"gone", row(4, b"")),
            (b"gone-later", row(8, b"")),
            (b"z", row(9, entity_json("z", {}, 5, 9))),
        ]
        view.load(rows)
        ghosts: list[bytes] = []
        with env.read() as txn:
            yield list(image(txn, HEAD, drop_upto=4, ghosts=ghosts))
        assert ghosts == [b"gone"]


def test_an_image_holds_head_and_rows(records):
    head, rows = parse(records)
    assert head == HEAD
    assert [key for key, _ in rows] == [b"a", b"gone-later", b"z"]
    assert rows[1][1] == row(8, b"")


@pytest.mark.parametrize("record", [b"", b"X", b"R", b"R\0", b"Hnot json", b'H{"seq":1}'])
def test_what_is_no_image(record):
    with pytest.raises(ValueError):
        parse([record])


def test_an_image_of_another_format_is_not_guessed_at(records):
    with pytest.raises(ValueError, match="format 2"):
        parse([records[0].replace(b'"format":1', b'"format":2')])


def test_a_copy_comes_back_renumbered_without_ghosts(records):
    stream = io.BytesIO()
    assert write_copy(stream, records) == 3
    stream.seek(0)
    head, rows = parse(read_copy(stream, 77))
    assert head is not None
    assert (head.seq, head.namespaces) == (77, HEAD.namespaces)
    assert rows == [
        (b"a", row(0, entity_json("a", {"p": 1}, 5, 77))),
        (b"z", row(0, entity_json("z", {}, 5, 77))),
    ]


def test_every_cut_and_every_flip_is_noticed(records):
    stream = io.BytesIO()
    write_copy(stream, records)
    data = stream.getvalue()
    for end in range(len(data)):
        with pytest.raises((Damaged, Invalid)):
            list(read_copy(io.BytesIO(data[:end]), 1))
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        with pytest.raises((Damaged, Invalid)):
            list(read_copy(io.BytesIO(flipped), 1))


def test_a_newer_version_is_refused():
    with pytest.raises(Invalid, match="version 2"):
        list(read_copy(io.BytesIO(BACKUP_MAGIC + b"\0\2"), 1))


def test_a_stream_that_fails(records):
    class Broken(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

        def read(self, _: object = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(Unavailable):
        write_copy(Broken(), records)
    with pytest.raises(Unavailable):
        list(read_copy(Broken(), 1))
