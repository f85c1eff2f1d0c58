import os
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest

from appliance.settings.own import NodeLimits, Orchestrator
from appliance.supervise import environment
from appliance.supervise.environment import LaunchMaker, hand_over, package_limits, program_for_nodes
from appliance.supervise.instance import Instance
from appliance.system.paths import Paths
from appliance.wire.errors import Damaged, Misconfigured


def test_a_node_gets_its_name_its_root_and_little_else(tmp_path):
    outer = {"PATH": "/bin", "HOME": "/home/x", "SECRET_TOKEN": "no", "LANG": ""}
    maker = LaunchMaker(Paths(tmp_path), Orchestrator(kill_grace_s=7), outer)
    launch = maker.launch("AI.a@h", "unit", tmp_path / "start.sh", tmp_path)
    program = launch.env["FLUXBEE_BIN"]
    assert launch.env == {
        "FLUXBEE_NODE_NAME": "AI.a@h",
        "FLUXBEE_BIN": program,
        "FLUXBEE_ROOT": str(tmp_path),
        "PATH": f"{program.rpartition('/')[0]}:/bin",
        "HOME": "/home/x",
        "LANG": "C.UTF-8",
    }
    assert launch.argv == (str(tmp_path / "start.sh"),)
    assert launch.cwd == str(tmp_path / "lib" / "nodes" / "AI" / "AI.a@h")
    assert launch.log_dir == str(Paths(tmp_path).node_logs / "AI.a@h")
    assert (launch.stop_grace_s, launch.user, launch.memory_bytes) == (7.0, "", None)


def test_the_usual_places_are_not_told():
    maker = LaunchMaker(Paths(None), Orchestrator(), {})
    maker._program = environment.Path("/usr/bin/fluxbee")
    launch = maker.launch("AI.a@h", "unit", environment.Path("/s"), environment.Path("/missing"))
    assert "FLUXBEE_ROOT" not in launch.env
    assert launch.env["PATH"].startswith("/usr/bin:/usr/local/sbin")


def test_an_account_that_nobody_has_is_a_mistake_of_the_configuration(tmp_path):
    maker = LaunchMaker(Paths(tmp_path), Orchestrator(node_user="nobody-has-this"), {})
    with pytest.raises(Misconfigured, match=r"orchestrator\.node_user"):
        maker.launch("AI.a@h", "unit", tmp_path / "s", tmp_path)
    root = LaunchMaker(Paths(tmp_path), Orchestrator(node_user="root"), {})
    launch = root.launch("AI.a@h", "unit", tmp_path / "s", tmp_path)
    assert (launch.user, launch.env["HOME"]) == ("root", "/root")


def test_an_instance_is_handed_to_the_account_and_links_are_left_alone(tmp_path, monkeypatch):
    instance = Instance(Paths(tmp_path), "AI.a@h")
    hand_over(instance, "")
    instance.create_config({})
    instance.state_path.symlink_to("/etc/passwd")
    given = []

    def fchown(fd, uid, gid):
        given.append((os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), uid, gid))

    monkeypatch.setattr(environment.os, "fchown", fchown)
    monkeypatch.setattr(
        environment, "_account", lambda user: SimpleNamespace(pw_uid=4711, pw_gid=4712, pw_dir="/x")
    )
    hand_over(instance, "nodes")
    assert given == [("AI.a@h", 4711, 4712), ("config.json", 4711, 4712)]
    assert stat.S_IMODE(instance.directory.parent.stat().st_mode) == 0o711
    instance.config_path.rename(tmp_path / "other")
    instance.config_path.hardlink_to(tmp_path / "other")
    given.clear()
    hand_over(instance, "nodes")
    assert given == [("AI.a@h", 4711, 4712)]


def test_limits_of_the_package_come_before_those_of_the_hive(tmp_path):
    default = NodeLimits(memory_bytes=1 << 20, pids=5)
    assert package_limits(tmp_path, default) is default
    described = tmp_path / "package.json"
    described.write_text('{"name": "x"}')
    assert package_limits(tmp_path, default) == default
    described.write_text('{"limits": {"memory_bytes": 9, "cpu_weight": 50}}')
    assert package_limits(tmp_path, default) == NodeLimits(memory_bytes=9, pids=5, cpu_weight=50)
    for wrong in ('{"limits": {"pids": "x"}}', '{"limits": {"pids": 0}}', "{"):
        described.write_text(wrong)
        with pytest.raises(Damaged):
            package_limits(tmp_path, default)


def test_nodes_can_call_this_program(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    beside = tmp_path / "bin" / "fluxbee"
    beside.touch()
    assert program_for_nodes(Paths(tmp_path)) == beside
    beside.unlink()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert program_for_nodes(Paths(tmp_path)) == tmp_path / "bin" / "python"


def test_without_an_installed_program_a_small_script_calls_it(tmp_path, monkeypatch):
    link = tmp_path / "venv bin" / "python"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    real = sys.executable
    monkeypatch.setattr(sys, "executable", str(link))
    script = program_for_nodes(Paths(tmp_path))
    assert str(link) in script.read_text()
    script.write_text(script.read_text().replace(str(link), real))
    done = subprocess.run([str(script), "version"], capture_output=True, text=True, cwd="/", timeout=20)
    assert done.returncode == 0, done.stderr
