import os
import stat

import pytest

from appliance.supervise.instance import Instance
from appliance.supervise.status_version import StatusVersions, fingerprint
from appliance.system.paths import Paths


@pytest.fixture
def instance(tmp_path):
    made = Instance(Paths(tmp_path), "AI.a@h")
    made.make()
    return made


def test_it_starts_at_one_and_moves_only_when_something_changed(instance):
    versions = StatusVersions()
    assert versions.unchanged(instance.name, {"a": 1}) is None
    assert [versions.version(instance, {"a": value}) for value in (1, 1, 2, 2, 1)] == [1, 1, 2, 2, 3]
    assert versions.unchanged(instance.name, {"a": 1}) == 3
    assert versions.unchanged(instance.name, {"a": 2}) is None


def test_it_outlives_a_restart_and_never_goes_back(instance):
    StatusVersions().version(instance, {"a": 1})
    again = StatusVersions()
    assert again.version(instance, {"a": 1}) == 1
    assert again.version(instance, {"a": 2}) == 2
    (instance.directory / "status_fingerprint.sha256").unlink()
    assert StatusVersions().version(instance, {"a": 2}) == 3
    for name in ("status_version", "status_fingerprint.sha256"):
        assert stat.S_IMODE((instance.directory / name).stat().st_mode) == 0o600


def test_a_node_without_an_instance_is_counted_in_memory(tmp_path):
    instance = Instance(Paths(tmp_path), "SY.x@h")
    versions = StatusVersions()
    assert [versions.version(instance, {"a": value}) for value in (1, 2)] == [1, 2]
    assert not instance.exists
    versions.forget(instance.name)
    assert versions.version(instance, {"a": 2}) == 1


def test_a_refusing_medium_costs_persistence_only(instance):
    (instance.directory / "status_version").mkdir()
    versions = StatusVersions()
    assert versions.version(instance, {"a": 1}) == 1
    assert versions.version(instance, {"a": 2}) == 2
    assert versions.failures == 2


def test_the_fingerprint_does_not_see_the_order():
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": None})


@pytest.mark.parametrize("content", [None, "9" * 100, "-3", "0", str(2**60)])
def test_what_a_node_puts_in_the_place_of_the_counter_does_no_harm(instance, content):
    place = instance.directory / "status_version"
    os.mkfifo(place) if content is None else place.write_text(content)
    assert StatusVersions().version(instance, {"a": 1}) == 1
