"""Lists in pages and whole, and those of hives that are not here."""

from __future__ import annotations

import pytest

from appliance.services.orchestrator.router_view import SeenNode
from appliance.supervise.instance import Instance
from tests.unit.test_services_orchestrator_spawn import Stage, on_stage


class Seen:
    """A router that sees a fixed set of names, and counts how often it is asked."""

    def __init__(self, *names):
        self.names = names
        self.asked = 0

    async def nodes(self):
        self.asked += 1
        return {name: SeenNode(name, f"u-{name}", 0, 5) for name in self.names}


def stage_with(folder, count):
    stage = Stage(folder)
    for number in range(count):
        system = {"runtime": "ai.sleep", "runtime_version": "1", "relaunch_on_boot": False}
        Instance(stage.paths, f"AI.n{number:04}@motherbee").create_config({"_system": system})
    return stage


def test_pages_make_the_whole_and_come_from_one_look(tmp_path):
    stage = stage_with(tmp_path, 500)

    async def body():
        stage.service.house.router = router = Seen("SY.x@motherbee", "AI.n0001@motherbee")
        whole = await stage.service.answer_here("list_nodes", {})
        names = [one["name"] for one in whole["nodes"]]
        assert whole["node_count"] == len(names) == 502
        assert names == sorted(names)
        assert "next" not in whole
        asked, found, after = router.asked, [], ""
        while after is not None:
            page = await stage.service.answer_here("list_nodes", {"after": after})
            found += page["nodes"]
            after = page.get("next")
        assert len(page["nodes"]) < 502
        assert len(found) == 502
        assert router.asked == asked + 1

    on_stage(stage, body)


def test_a_silent_router_leaves_the_managed_nodes(tmp_path):
    stage = stage_with(tmp_path, 2)

    async def body():
        listed = await stage.service.answer_here("list_nodes", {})
        assert listed["inventory_source"] == "managed_instances_fallback"
        assert [one["lifecycle_state"] for one in listed["nodes"] if one["managed"]] == ["STOPPED", "STOPPED"]
        inventory = await stage.service.answer_here("inventory", {})
        assert inventory["error_code"] == "SHM_NOT_FOUND"

    on_stage(stage, body)


def test_registered_hives_are_listed_as_stale(tmp_path):
    stage = Stage(tmp_path)
    (stage.paths.hives / "edge-07").mkdir(parents=True)
    (stage.paths.hives / "edge-07" / "info.yaml").write_text("hive_id: edge-07\n")
    (stage.paths.hives / "half").mkdir()

    async def body():
        stage.service.house.router = Seen("AI.a@motherbee", "odd@motherbee", "SY.x@motherbee")
        everything = await stage.service.answer_here("inventory", {})
        assert [(one["hive_id"], one["status"], one["node_count"]) for one in everything["hives"]] == [
            ("edge-07", "stale", 0),
            ("motherbee", "alive", 3),
        ]
        summary = await stage.service.answer_here("inventory", {"scope": "summary"})
        assert (summary["hives_alive"], summary["hives_stale"]) == (1, 1)
        assert summary["nodes_by_type"] == {"AI": 1, "SY": 1, "UNKNOWN": 1}
        assert summary["nodes_by_status"] == {"active": 3}
        edge = await stage.service.answer_here("inventory", {"hive": "edge-07"})
        assert (edge["hive_status"], edge["nodes"]) == ("stale", [])
        agents = await stage.service.answer_here("inventory", {"type": "ai", "hive": "motherbee"})
        assert [one["node_name"] for one in agents["nodes"]] == ["AI.a@motherbee"]

    on_stage(stage, body)


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("list_nodes", "NODE_LIST_FAILED"),
        ("get_node_status", "NODE_STATUS_GET_FAILED"),
        ("get_node_config", "NODE_CONFIG_GET_FAILED"),
        ("set_node_config", "NODE_CONFIG_SET_FAILED"),
        ("get_node_state", "NODE_STATE_GET_FAILED"),
        ("start_node", "START_FAILED"),
        ("restart_node", "RESTART_FAILED"),
        ("kill_node", "KILL_FAILED"),
        ("remove_node_instance", "NODE_INSTANCE_REMOVE_FAILED"),
        ("run_node", "SPAWN_FAILED"),
    ],
)
def test_a_hive_that_cannot_be_reached_is_named_with_the_code_of_the_action(tmp_path, action, code):
    stage = Stage(tmp_path)

    async def body():
        request = {"target": "elsewhere", "node_name": "AI.sleep", "config": {}}
        answer = await stage.service.answer_here(action, request)
        assert (answer["error_code"], answer["target"]) == (code, "elsewhere")
        assert "UNREACHABLE for target=SY.orchestrator@elsewhere" in answer["message"]

    on_stage(stage, body)
