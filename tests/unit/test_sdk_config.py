from __future__ import annotations

import threading
import uuid as uuids
from pathlib import Path

import pytest

from appliance.sdk.config import NodeConfig, load_uuid, router_candidates
from appliance.wire.errors import Damaged, Invalid, Unreachable
from appliance.wire.names import fnv1a64


@pytest.mark.parametrize("name", ["", "@hive", "../x", "AI/x", "..", ".", "AI\0x"])
def test_names_that_could_leave_the_directory_are_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        NodeConfig(name=name)
    assert caught.value.field == "name"


def test_defaults_follow_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXBEE_ROOT", str(tmp_path))
    assert NodeConfig(name="AI.x").paths.routers == tmp_path / "run/routers"


# -- choosing a router ------------------------------------------------------------------------------------


def test_the_hash_has_the_documented_vectors() -> None:
    assert fnv1a64("AI.chat") == 0x358FE103C09B4E5D
    assert fnv1a64("SY.timer") == 0x464727F93B842C6A


def test_a_path_that_is_no_directory_is_the_only_candidate(tmp_path: Path) -> None:
    socket = tmp_path / "x.sock"
    assert router_candidates(socket, "AI.chat") == [socket]
    socket.touch()
    assert router_candidates(socket, "AI.chat") == [socket]


@pytest.mark.parametrize("name", ["AI.chat", "AI.chat@hive1", "SY.timer@x", "IO.slack"])
def test_a_directory_is_sorted_and_started_at_the_hash(tmp_path: Path, name: str) -> None:
    wanted = [tmp_path / f"{letter}.sock" for letter in "abcde"]
    for path in reversed(wanted):
        path.touch()
    for other in ("irp-a.sock", "a.txt", "sock", "b.sock.old"):
        (tmp_path / other).touch()
    start = fnv1a64(name.partition("@")[0]) % 5
    assert router_candidates(tmp_path, name) == wanted[start:] + wanted[:start]


def test_an_empty_directory_says_so(tmp_path: Path) -> None:
    (tmp_path / "irp-only.sock").touch()
    with pytest.raises(Unreachable, match="no router sockets found") as caught:
        router_candidates(tmp_path, "AI.chat")
    assert caught.value.code == "NO_ROUTER"
    assert "fluxbee run" in caught.value.remedy


# -- uuid files -------------------------------------------------------------------------------------------


def test_a_uuid_is_made_once_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "nodes"
    first = load_uuid(directory, "AI.chat@hive1")
    text = (directory / "AI.chat.uuid").read_text()
    assert (text, len(text)) == (first, 36)
    assert uuids.UUID(first).version == 4
    assert load_uuid(directory, "AI.chat") == first
    assert [entry.name for entry in directory.iterdir()] == ["AI.chat.uuid"]


@pytest.mark.parametrize(
    "text",
    [
        " 2F1C9A54-7F0E-4B7C-8A53-3F0D7B1F6A10\n",
        "2f1c9a547f0e4b7c8a533f0d7b1f6a10",
        "{2f1c9a54-7f0e-4b7c-8a53-3f0d7b1f6a10}",
    ],
)
def test_every_notation_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "AI.x.uuid").write_text(text)
    assert load_uuid(tmp_path, "AI.x") == "2f1c9a54-7f0e-4b7c-8a53-3f0d7b1f6a10"


@pytest.mark.parametrize("content", [b"", b"no uuid", b"\xff\xfe", b"2f1c9a54"])
def test_a_corrupt_file_is_an_error_and_stays(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "AI.x.uuid"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"AI\.x\.uuid") as caught:
        load_uuid(tmp_path, "AI.x")
    assert caught.value.code == "UUID_FILE_DAMAGED"
    assert path.read_bytes() == content


def test_many_that_start_at_once_agree(tmp_path: Path) -> None:
    found: list[str] = []
    gate = threading.Barrier(8)

    def start() -> None:
        gate.wait()
        found.append(load_uuid(tmp_path, "AI.x"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(found))) == (8, 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["AI.x.uuid"]
