from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.system.cgroup import CONTROLLERS, Cgroup, CgroupTree, cgroup_mount
from appliance.system.procfs import cgroup_of

FILES = ("cgroup.procs", "cgroup.kill", "cgroup.controllers", "cgroup.subtree_control")
LIMITS = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.weight")


class FakeTree:
    """A folder with the files that the kernel would have made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.group("")

    def group(self, path: str, *, limits: bool = False) -> Path:
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*FILES, *(LIMITS if limits else ())):
            (folder / name).touch()
        return folder

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def put(self, path: str, text: str) -> None:
        (self.root / path).write_text(text)


@pytest.fixture
def fake(tmp_path: Path) -> FakeTree:
    return FakeTree(tmp_path)


def opened(fake: FakeTree, own: str = "/svc") -> CgroupTree | None:
    return CgroupTree.open("hive", mount=fake.root, own=own)


def test_limits_are_written_where_there_are_controllers(fake: FakeTree) -> None:
    fake.group("svc/hive/unit", limits=True)
    tree = CgroupTree(fake.root / "svc/hive", "/svc/hive", CONTROLLERS)
    group = tree.create("unit", memory_bytes=1 << 20, pids=20, cpu_weight=50)
    assert group.path == "/svc/hive/unit"
    found = [fake.text(f"svc/hive/unit/{name}") for name in LIMITS]
    assert found == ["1048576", "0", "1", "20", "50"]
    tree.create("unit")
    assert fake.text("svc/hive/unit/memory.max").startswith("max")


def test_without_controllers_it_is_a_group_all_the_same(fake: FakeTree) -> None:
    tree = CgroupTree(fake.root, "/", ())
    group = tree.create("unit", memory_bytes=1 << 20, pids=20, cpu_weight=50)
    assert group.folder.is_dir()
    assert group.path == "/unit"
    assert list(group.folder.iterdir()) == []


def test_controllers_are_handed_down_and_the_keeper_steps_aside(fake: FakeTree) -> None:
    fake.group("svc")
    fake.group("svc/hive")
    fake.group("svc/fluxbee-self")
    fake.put("svc/cgroup.controllers", "cpu io memory pids")
    fake.put("svc/cgroup.procs", f"{os.getpid()}\n")
    tree = opened(fake)
    assert tree is not None
    assert tree.path == "/svc/hive"
    assert fake.text("svc/fluxbee-self/cgroup.procs") == str(os.getpid())
    assert fake.text("svc/cgroup.subtree_control").startswith("+")
    assert fake.text("svc/hive/cgroup.subtree_control").startswith("+")


def test_without_controllers_an_empty_folder_does_not_stay(fake: FakeTree) -> None:
    tree = CgroupTree(fake.root / "hive", "/hive", ())
    group = tree.create("unit")
    assert group.folder.is_dir()
    assert tree.discard(group)
    assert not tree.folder.exists()
    limited = CgroupTree(fake.group("limited"), "/limited", ("cpu",))
    assert limited.discard(limited.group("gone"))
    assert limited.folder.exists()


def test_who_is_not_alone_in_its_group_stays_there(fake: FakeTree) -> None:
    fake.group("svc")
    fake.group("svc/hive")
    fake.put("svc/cgroup.controllers", "memory")
    fake.put("svc/cgroup.procs", f"{os.getpid()}\n1\n")
    assert opened(fake) is not None
    assert not (fake.root / "svc/fluxbee-self").exists()


def test_what_is_enabled_already_counts(fake: FakeTree) -> None:
    fake.group("svc")
    fake.group("svc/hive")
    for path in ("svc/cgroup.controllers", "svc/cgroup.subtree_control", "svc/hive/cgroup.subtree_control"):
        fake.put(path, "memory pids")
    tree = opened(fake)
    assert tree is not None
    assert tree.controllers == {"memory", "pids"}


def test_a_keeper_that_stepped_aside_before_finds_its_home(fake: FakeTree) -> None:
    fake.group("svc")
    fake.group("svc/hive")
    tree = opened(fake, own="/svc/fluxbee-self")
    assert tree is not None
    assert tree.path == "/svc/hive"


def test_no_tree_is_no_error(fake: FakeTree) -> None:
    assert opened(fake, own="") is None
    assert CgroupTree.open("hive", mount=fake.root / "nowhere", own="/x") is None
    (fake.root / "plain").mkdir()  # a folder of no cgroup file system: it has no control files
    assert CgroupTree.open("hive", mount=fake.root / "plain", own="/") is None
    assert list((fake.root / "plain").iterdir()) == []


def test_members_are_those_below_too(fake: FakeTree) -> None:
    fake.group("unit")
    fake.group("unit/inner")
    fake.put("unit/cgroup.procs", "5\n6\n")
    fake.put("unit/inner/cgroup.procs", "7\n")
    group = Cgroup(fake.root / "unit", "/unit")
    assert sorted(group.members()) == [5, 6, 7]
    assert group.kill() == 3
    assert fake.text("unit/cgroup.kill") == "1"
    assert not group.remove()
    assert CgroupTree(fake.root, "/", ()).units() == ("unit",)


def test_a_kernel_without_group_kill_says_so(fake: FakeTree) -> None:
    fake.group("unit")
    fake.put("unit/cgroup.procs", "5\n")
    (fake.root / "unit/cgroup.kill").unlink()
    assert Cgroup(fake.root / "unit", "/unit").kill() == 0


def test_kills_for_want_of_memory_are_read(fake: FakeTree) -> None:
    fake.group("unit")
    group = Cgroup(fake.root / "unit", "/unit")
    assert group.oom_kills() == 0
    fake.put("unit/memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n")
    assert group.oom_kills() == 2


def test_the_mount_is_found_beside_version_one(tmp_path: Path) -> None:
    path = tmp_path / "mountinfo"
    path.write_text(
        "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
        "41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw\n"
    )
    assert cgroup_mount(path) == Path("/sys/fs/cgroup/uni fied")
    path.write_text("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n")
    assert cgroup_mount(path) is None
    assert cgroup_mount(tmp_path / "none") is None


@pytest.fixture
def real() -> Iterator[CgroupTree | None]:
    tree = CgroupTree.open(f"fluxbee-test-{os.getpid()}")
    yield tree
    if tree is not None:
        for unit in tree.units():
            tree.group(unit).remove()
        tree.close()


def test_a_real_group_holds_and_ends_its_processes(real: CgroupTree | None) -> None:
    if real is None:  # no cgroup v2 that we may write: nothing is ever put into a group here
        assert CgroupTree.open("again") is None
        return
    group = real.create("unit")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    group.add(child.pid)
    assert cgroup_of(child.pid) == group.path
    assert group.members() == (child.pid,)
    assert not group.remove()
    if group.kill():
        assert child.wait() == -9
    else:
        child.kill()
    child.communicate()
    assert real.discard(group)
    assert real.units() == ()
    assert not real.folder.exists() or real.controllers
