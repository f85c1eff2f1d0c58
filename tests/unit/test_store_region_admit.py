from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from appliance.store import region_admit
from appliance.store.region import Environment
from appliance.store.region_admit import (
    CONTROL,
    LIVE,
    MAX_FAILED_OPENS,
    MEMORY,
    WORLD,
    EnvironmentFiles,
    EnvironmentSpec,
    Mark,
    Verdict,
    WriterLock,
    judge,
    read_mark,
    write_mark,
)
from appliance.store.region_check import Depth, MetaPages
from appliance.store.region_handle import detach
from appliance.system.boot import BootId
from appliance.wire.errors import Conflict, NotFound, Unavailable
from tests.unit.store_regions import ALIAS, LOOSE, REGIONS, SMALL, SYNCED

THIS, OTHER = BootId("this boot"), BootId("another boot")
OPEN = Mark(format=1, boot=THIS, clean=False, opens=1)
CLEAN = Mark(format=1, boot=OTHER, clean=True)


def changed(mark: Mark, **fields: object) -> Mark:
    return msgspec.structs.replace(mark, **fields)


@pytest.mark.parametrize(
    ("mark", "synced", "loose"),
    [
        (None, Verdict.CHECK_ALL, Verdict.DISCARD),
        (CLEAN, Verdict.CHECK, Verdict.CHECK),
        (OPEN, Verdict.CHECK_ALL, Verdict.CHECK_ALL),
        (changed(OPEN, boot=OTHER), Verdict.CHECK_ALL, Verdict.DISCARD),
        (changed(CLEAN, format=99), Verdict.SET_ASIDE, Verdict.SET_ASIDE),
        (changed(CLEAN, suspect="why"), Verdict.SET_ASIDE, Verdict.SET_ASIDE),
        (changed(OPEN, opens=MAX_FAILED_OPENS), Verdict.SET_ASIDE, Verdict.SET_ASIDE),
        (changed(OPEN, opens=MAX_FAILED_OPENS - 1), Verdict.CHECK_ALL, Verdict.CHECK_ALL),
    ],
)
def test_the_mark_decides(mark: Mark | None, synced: Verdict, loose: Verdict) -> None:
    assert judge(mark, sync=True, boot=THIS)[0] is synced
    assert judge(mark, sync=False, boot=THIS)[0] is loose


def filled(spec: EnvironmentSpec, directory: Path, boot: BootId = THIS) -> Environment:
    env = Environment(spec, directory, REGIONS, boot=boot)
    with env.change("config", applied_seq=5) as txn:
        ALIAS.put(txn, "a", b"1")
    env.finish_rebuild("config")
    env.finish_rebuild("identity")
    return env


def forget(env: Environment) -> None:
    """End the environment as a killed process does: nothing is synced, no mark is written."""
    env._handle.close()
    detach(env._handle)
    env._lock.release()


@pytest.mark.parametrize(
    ("spec", "boot", "clean", "kept"),
    [
        (SYNCED, THIS, False, True),
        (SYNCED, OTHER, False, True),
        (SYNCED, OTHER, True, True),
        (LOOSE, THIS, False, True),
        (LOOSE, OTHER, False, False),
        (LOOSE, OTHER, True, True),
        (SMALL, OTHER, False, False),
    ],
)
def test_what_was_never_synced_is_trusted_within_one_boot_or_after_a_clean_stop(
    tmp_path: Path, spec: EnvironmentSpec, boot: BootId, clean: bool, kept: bool
) -> None:
    env = filled(spec, tmp_path)
    if clean:
        env.close()
    else:
        forget(env)
    with Environment(spec, tmp_path, REGIONS, boot=boot) as env:
        assert env.opened.kept is kept
        assert env.opened.rebuild_needed is not kept
        assert env.opened.set_aside is None
        assert env.get(ALIAS, "a") == (b"1" if kept else None)
    assert not list(tmp_path.glob("*.damaged-*"))


def test_without_a_mark_only_a_synced_environment_is_kept(tmp_path: Path) -> None:
    for spec, kept in ((SYNCED, True), (LOOSE, False)):
        filled(spec, tmp_path).close()
        (tmp_path / f"{spec.name}.mark").unlink()
        with Environment(spec, tmp_path, REGIONS, boot=THIS) as env:
            assert env.opened.kept is kept


@pytest.mark.parametrize("content", [b"", b"garbage", b'{"format": "one"}', b"\xff\xfe"])
def test_a_garbled_mark_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mark"
    path.write_bytes(content)
    assert read_mark(path) is None


def test_an_environment_that_keeps_ending_its_owner_is_set_aside(tmp_path: Path) -> None:
    filled(SYNCED, tmp_path).close()
    for _ in range(MAX_FAILED_OPENS):
        env = Environment(SYNCED, tmp_path, REGIONS, boot=THIS)
        assert env.opened.kept
        forget(env)
    with Environment(SYNCED, tmp_path, REGIONS, boot=THIS) as env:
        assert "ended 3 times" in env.opened.reason
        assert env.opened.set_aside == tmp_path / "synced.damaged-1"
        assert env.opened.rebuild == {"config", "identity"}


def test_maintenance_ends_the_suspicion(tmp_path: Path) -> None:
    filled(SYNCED, tmp_path).close()
    for _ in range(MAX_FAILED_OPENS + 2):
        env = Environment(SYNCED, tmp_path, REGIONS, boot=THIS)
        assert env.opened.kept
        env.maintain()
        forget(env)


def test_a_bounded_number_of_damaged_files_is_kept(tmp_path: Path) -> None:
    for number in range(1, 6):
        filled(SYNCED, tmp_path).close()
        (tmp_path / "synced.mdb").write_bytes(b"garbage %d" % number)
        with Environment(SYNCED, tmp_path, REGIONS) as env:
            assert env.opened.set_aside == tmp_path / f"synced.damaged-{number}"
    assert sorted(path.name for path in tmp_path.glob("*.damaged-*")) == [
        "synced.damaged-4",
        "synced.damaged-5",
    ]
    assert (tmp_path / "synced.damaged-5").read_bytes() == b"garbage 5"


def test_numbers_of_set_aside_files_are_numbers(tmp_path: Path) -> None:
    for number in (9, 10):
        (tmp_path / f"x.damaged-{number}").write_bytes(b"")
    (tmp_path / "x.damaged-old").write_bytes(b"")
    (tmp_path / "xx.damaged-99").write_bytes(b"")
    (tmp_path / "x.mdb").write_bytes(b"bad")
    files = EnvironmentFiles(tmp_path, "x")
    assert [number for number, _ in files.asides()] == [9, 10]
    assert files.set_aside(keep=2) == tmp_path / "x.damaged-11"
    assert [number for number, _ in files.asides()] == [10, 11]


def test_an_empty_file_is_a_new_environment(tmp_path: Path) -> None:
    (tmp_path / "synced.mdb").write_bytes(b"")
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        assert env.opened.reason == "new"


def test_a_link_in_place_of_the_file_is_set_aside(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    (tmp_path / "synced.mdb").symlink_to(elsewhere)
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        assert env.opened.set_aside is not None
        assert env.opened.set_aside.is_symlink()
    assert elsewhere.read_bytes() == b"precious"


# --- one writer ------------------------------------------------------------------------------------------


def test_a_second_writer_in_this_process_is_refused(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env:
        with pytest.raises(Conflict) as caught:
            Environment(SMALL, tmp_path, REGIONS)
        assert caught.value.code == "REGION_IN_USE"
        assert f"process {os.getpid()} " in str(caught.value)
        with env.change("config") as txn:
            ALIAS.put(txn, "a", b"1")
        assert env.get(ALIAS, "a") == b"1"
    with Environment(SMALL, tmp_path, REGIONS):
        pass


SECOND_WRITER = """
import sys
from pathlib import Path
from appliance.wire.errors import Conflict
from appliance.store.region import Environment
from tests.unit.store_regions import REGIONS, SMALL
try:
    Environment(SMALL, Path(sys.argv[1]), REGIONS)
except Conflict as error:
    print(error.code, error)
"""


@pytest.mark.process
def test_a_second_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS):
        done = subprocess.run(
            [sys.executable, "-c", SECOND_WRITER, str(tmp_path)], capture_output=True, text=True, check=True
        )
    assert done.stdout == f"REGION_IN_USE small: process {os.getpid()} writes this environment\n"


def test_a_lock_whose_holder_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.writer"
    lock = WriterLock(path)
    for content in (b"", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(Conflict) as caught:
            WriterLock(path)
        assert "(unknown)" in str(caught.value)
    lock.release()
    WriterLock(path).release()


def test_a_lock_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        WriterLock(tmp_path / "none" / "x.writer")


# --- media that refuse -----------------------------------------------------------------------------------


def test_a_mark_that_cannot_be_written_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.mark"
    assert write_mark(path, CLEAN)

    def full(*_: object) -> int:
        raise Unavailable("full", code="STORAGE_FULL")

    monkeypatch.setattr(region_admit, "durable_replace", full)
    assert not write_mark(path, OPEN)
    assert not path.exists()
    with Environment(SYNCED, tmp_path, REGIONS) as env:
        assert env.statistics().mark_errors == 1


def test_a_place_that_cannot_be_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(LOOSE, tmp_path, OTHER).close()
    (tmp_path / "loose.mark").unlink()

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(Unavailable) as caught:
            Environment(LOOSE, tmp_path, REGIONS)
        assert caught.value.code == "STORAGE_READ_ONLY"
    with Environment(LOOSE, tmp_path, REGIONS):
        pass


def test_the_four_environments_of_the_design() -> None:
    assert [(spec.name, spec.on_disk, spec.sync) for spec in (LIVE, CONTROL, MEMORY, WORLD)] == [
        ("live", False, False),
        ("control", True, True),
        ("memory", False, False),
        ("world", True, False),
    ]
    assert (LIVE.map_bytes, WORLD.map_bytes) == (256 << 20, 16 << 30)


MB = 1 << 20


@pytest.mark.parametrize(
    ("file_bytes", "clean", "short", "depth"),
    [
        (MB, True, False, Depth.PAGES),
        (MB, False, False, Depth.PAGES),
        (20 * MB, True, False, Depth.ROWS),
        (20 * MB, False, False, Depth.PAGES),
        (200 * MB, True, False, Depth.ENDS),
        (200 * MB, True, True, Depth.ROWS),
        (200 * MB, False, False, Depth.ROWS),
    ],
)
def test_how_deep_a_file_is_looked_at(file_bytes: int, clean: bool, short: bool, depth: Depth) -> None:
    last_page = file_bytes // 4096 if short else 10
    meta = MetaPages(page_bytes=4096, map_bytes=1 << 30, last_page=last_page, txnid=1, file_bytes=file_bytes)
    assert meta.short is short
    assert region_admit._depth(meta, WORLD, clean=clean) is depth
