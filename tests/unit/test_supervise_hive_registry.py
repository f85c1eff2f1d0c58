"""Records of hives: one key per line, ids before paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from appliance.supervise.hive_registry import HiveRecord, HiveRegistry, check_address, check_worker_id
from appliance.wire.errors import Invalid, NotFound, Unavailable

RECORD = HiveRecord(hive_id="edge-07", address="10.20.0.7", created_at="1790000012345", status="pending")


def test_a_record_is_greppable_and_comes_back(tmp_path: Path):
    registry = HiveRegistry(tmp_path / "hives")
    assert registry.ids() == []
    registry.write(RECORD)
    path = tmp_path / "hives/edge-07/info.yaml"
    assert "address: 10.20.0.7" in path.read_text().splitlines()
    assert yaml.safe_load(path.read_text())["created_at"] == "1790000012345"
    assert registry.find("edge-07") == RECORD
    assert registry.has("edge-07")
    assert registry.ids() == ["edge-07"]
    registry.remove("edge-07")
    registry.remove("edge-07")
    assert not (tmp_path / "hives/edge-07").exists()
    with pytest.raises(NotFound):
        registry.find("edge-07")


@pytest.mark.parametrize("hive", ["..", "../x", "a/b", "", "a b", "x" * 65])
def test_no_path_is_made_of_what_is_no_id(tmp_path: Path, hive: str):
    registry = HiveRegistry(tmp_path)
    assert not registry.has(hive)
    for act in (registry.find, registry.remove):
        with pytest.raises(Invalid):
            act(hive)
    with pytest.raises(Invalid):
        check_worker_id(hive)


@pytest.mark.parametrize("text", ["[", "hive_id: edge-07", "- a", "a: " + "[" * 5000])
def test_a_record_that_does_not_read(tmp_path: Path, text: str):
    (tmp_path / "edge-07").mkdir()
    (tmp_path / "edge-07/info.yaml").write_text(text)
    registry = HiveRegistry(tmp_path)
    with pytest.raises(Unavailable) as caught:
        registry.find("edge-07")
    assert caught.value.code == "IO_ERROR"
    assert registry.ids() == ["edge-07"]


def test_a_record_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "hives").write_text("a file")
    with pytest.raises(Unavailable) as caught:
        HiveRegistry(tmp_path / "hives").write(RECORD)
    assert caught.value.code == "IO_ERROR"


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "fe80::1", "::1", "box", "box.example.org", "1a.b", "x." * 20 + "x"]
)
def test_addresses(address: str):
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    ["", "10.0.0.256", "1.2.3", "a b", "a..b", "-a", "a-", "a_b", "x" * 64, "x." * 130, "a;b", "1.2.3.4:22"],
)
def test_what_is_no_address(address: str):
    with pytest.raises(Invalid) as caught:
        check_address(address)
    assert caught.value.code == "INVALID_ADDRESS"
