from pathlib import Path

import pytest

from appliance.supervise.names import NodeName
from appliance.supervise.node_config import (
    SpawnFacts,
    check_patch,
    config_version,
    identity_tenant,
    launch_part,
    patched_config,
    spawn_config,
    system_part,
)
from appliance.wire.errors import Damaged, Invalid

NAME = NodeName("AI.a", "h")
T1, T2, T3, T4 = (f"tnt:00000000-0000-4000-8000-00000000000{n}" for n in range(1, 5))


def spawned(template=None, config=None, requested=None, default=None, **facts):
    values = {"runtime_base": None, "package_path": None, "ilk_id": "ilk:x", **facts}
    return spawn_config(
        SpawnFacts(name=NAME, runtime="ai.a", runtime_version="1.0.0", now_ms=5, **values),
        template=template or {},
        config=config or {},
        requested_tenant=requested,
        default_tenant=default,
    )


def test_the_request_lies_over_the_template_and_system_over_both():
    config = spawned({"a": 1, "b": 1, "_system": {"leak": 1}}, {"b": 2})
    assert (config["a"], config["b"]) == (1, 2)
    assert config["_system"] == {
        "managed_by": "SY.orchestrator",
        "node_name": "AI.a@h",
        "hive_id": "h",
        "relaunch_on_boot": True,
        "config_version": 1,
        "created_at_ms": 5,
        "updated_at_ms": 5,
        "runtime": "ai.a",
        "runtime_version": "1.0.0",
        "ilk_id": "ilk:x",
    }


def test_a_package_with_a_base_names_it():
    system = spawned(runtime_base="ai.base", package_path=Path("/p"), unit="u")["_system"]
    assert (system["runtime_base"], system["package_path"], system["unit"]) == ("ai.base", "/p", "u")


@pytest.mark.parametrize(
    ("template", "config", "requested", "default", "wanted"),
    [
        (T3, T1, T2, T4, T1),
        (T3, None, T2, T4, T2),
        (T3, None, None, T4, T3),
        (None, None, None, T4, T4),
        (None, None, None, None, None),
    ],
)
def test_one_tenant_for_configuration_and_system(template, config, requested, default, wanted):
    made = spawned(
        {"tenant_id": template} if template else {},
        {"tenant_id": config} if config else {},
        requested,
        default,
    )
    assert made.get("tenant_id") == made["_system"].get("tenant_id") == wanted


def test_the_identity_prefers_the_request():
    assert identity_tenant(T1, {"tenant_id": T2}, T3) == T1
    assert identity_tenant(None, {"tenant_id": T2}, T3) == T2
    assert identity_tenant("", {}, T3) == T3
    assert identity_tenant(None, {}, None) is None
    for wrong in ("tnt:x", 7):
        with pytest.raises(Invalid):
            identity_tenant(wrong, {}, None)


def test_a_patch_is_an_object_without_system():
    assert check_patch(None) == {}
    for wrong in ([1], "x", {"_system": {}}):
        with pytest.raises(Invalid):
            check_patch(wrong)


def test_a_change_keeps_system_and_counts():
    stored = spawned(config={"a": 1, "b": 1})
    merged = patched_config(stored, {"b": 2}, replace=False, system_patch={}, name=NAME, now_ms=9)
    assert (merged["a"], merged["b"], config_version(merged)) == (1, 2, 2)
    assert merged["_system"]["created_at_ms"] == 5
    assert merged["_system"]["updated_at_ms"] == 9
    replaced = patched_config(
        merged, {"c": 3}, replace=True, system_patch={"runtime_version": "2"}, name=NAME, now_ms=9
    )
    assert sorted(replaced) == ["_system", "c"]
    assert launch_part(replaced, "AI.a@h") == ("ai.a", "2")
    assert config_version(replaced) == 3


def test_a_damaged_system_part_is_mended_by_a_change():
    merged = patched_config({"_system": 7}, {}, replace=False, system_patch={}, name=NAME, now_ms=9)
    assert merged["_system"] == {
        "managed_by": "SY.orchestrator",
        "node_name": "AI.a@h",
        "hive_id": "h",
        "created_at_ms": 9,
        "config_version": 1,
        "updated_at_ms": 9,
    }


def test_reading_system_survives_anything():
    odd = {"_system": {"runtime": 7, "config_version": -1, "relaunch_on_boot": "yes"}, "tenant_id": T1}
    part = system_part(odd)
    assert (part.runtime, part.config_version, part.relaunch_on_boot, part.tenant_id) == (None, 0, False, T1)
    assert system_part(None).runtime is None
    with pytest.raises(Damaged) as caught:
        launch_part(odd, "AI.a@h")
    assert caught.value.code == "NODE_CONFIG_INVALID"
