"""The router's uuid: made once, kept for ever, never replaced by itself."""

from __future__ import annotations

import stat

import pytest
import yaml

from appliance.router.identity import load_router_uuid
from appliance.wire.errors import Damaged, FluxbeeError, Unavailable
from appliance.wire.ids import canonical_uuid

NAME = "RT.gateway@north"
UUID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / NAME / "identity.yaml"


def load(path):
    return load_router_uuid(path, NAME, 1_760_000_000)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def test_the_first_start_makes_the_file_in_the_reference_s_shape(path):
    uuid = load(path)
    assert canonical_uuid(uuid) == uuid
    assert yaml.safe_load(path.read_text()) == {
        "layer1": {"uuid": uuid},
        "layer2": {"name": NAME},
        "shm": {"name": "/jsr-" + uuid.replace("-", "")},
        "created_at": "1760000000",
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_later_starts_read_it_and_leave_it_alone(path):
    uuid = load(path)
    before = path.read_bytes()
    assert load_router_uuid(path, "RT.other@north", 0) == uuid
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", [UUID, UUID.upper(), UUID.replace("-", ""), f'"{UUID}"'])
def test_any_notation_of_a_uuid_and_unknown_keys_are_fine(path, text):
    write(path, f"layer1:\n  uuid: {text}\n  more: 1\nfuture: [1, 2]\n")
    assert load(path) == UUID


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe garbage",
        b"layer1: {uuid: }",
        b"layer1: {uuid: 12}",
        b"layer1: {uuid: not-a-uuid}",
        b"layer1: [uuid]",
        b"[" * 5000,
        b"layer1: {uuid: *unknown}",
        b"a: !!timestamp x",
        b"a: !!int ''",
        b"a: !!bool x",
        b"a: 2024-99-99",
        f"layer1: {{uuid: {UUID[:-1]}}}".encode(),
        f"layer2: {{uuid: {UUID}}}".encode(),
        f"layer1: {{uuid: {UUID}".encode(),
    ],
)
def test_a_file_without_a_uuid_is_damaged_named_and_kept(path, data):
    write(path, data)
    with pytest.raises(Damaged) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "backup" in caught.value.remedy
    assert path.read_bytes() == data


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_file_or_directory_in_the_wrong_place_is_an_error_of_ours(path, level):
    if level == 0:
        path.mkdir(parents=True)
    elif level == 1:
        path.parent.parent.mkdir()
        path.parent.write_text("in the way")
    else:
        path.parent.parent.write_text("in the way")
    with pytest.raises(FluxbeeError) as caught:
        load(path)
    assert str(path.parent.parent) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.privileged
def test_a_full_disk_at_the_first_start_is_unavailable(tmp_path, path):
    import subprocess

    path.parent.parent.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "none", path.parent.parent], check=True
    )
    try:
        with pytest.raises(Unavailable) as caught:
            load(path)
        assert caught.value.code == "STORAGE_FULL"
    finally:
        subprocess.run(["umount", "-l", path.parent.parent], check=True)
