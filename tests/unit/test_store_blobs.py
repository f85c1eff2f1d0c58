from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from appliance.store import blobs as blobs_module
from appliance.store.blobs import AsyncBlobToolkit, BlobToolkit, blob_metrics
from appliance.wire.blob import BlobGcOptions, BlobRef, ResolveRetry
from appliance.wire.errors import FluxbeeError, Invalid, NotFound, Unavailable

NOW = 1_800_000_000.0
DAY = 86_400.0


@pytest.fixture
def toolkit(tmp_path: Path) -> BlobToolkit:
    return BlobToolkit(tmp_path / "blob", durable=False)


def staged(toolkit: BlobToolkit, ref: BlobRef) -> Path:
    return toolkit.root / "staging" / toolkit.prefix(ref.blob_name) / ref.blob_name


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def age(path: Path, seconds: float, now: float = NOW) -> None:
    os.utime(path, (now - seconds, now - seconds))


# --- put and promote ------------------------------------------------------------------------------------


def test_the_worked_example(toolkit: BlobToolkit) -> None:
    ref = toolkit.put_bytes(b"hello-blob", "Bill   March@@2026.PNG")
    assert ref.blob_name == "Bill_March_2026_57a256c65db5af18.png"
    assert (ref.size, ref.mime, ref.filename_original) == (10, "image/png", "Bill   March@@2026.PNG")
    ref.validate()
    assert not toolkit.exists(ref)
    toolkit.promote(ref)
    assert toolkit.resolve(ref) == toolkit.root / "active/57/Bill_March_2026_57a256c65db5af18.png"
    assert toolkit.resolve(ref).read_bytes() == b"hello-blob"
    assert files_below(toolkit.root) == ["active/57/Bill_March_2026_57a256c65db5af18.png"]


def test_put_copies_a_file_and_guesses_its_type(toolkit: BlobToolkit, tmp_path: Path) -> None:
    source = tmp_path / "Report 1.pdf"
    source.write_bytes(b"x" * 3_000_000)
    ref = toolkit.put(source)
    assert (ref.size, ref.mime, ref.filename_original) == (3_000_000, "application/pdf", "Report 1.pdf")
    assert staged(toolkit, ref).read_bytes() == source.read_bytes()
    assert ref.blob_name == toolkit.put_bytes(source.read_bytes(), "Report 1.pdf").blob_name
    assert toolkit.put(source, " named.txt ").blob_name.startswith("named_")


def test_directories_and_files_have_the_modes_of_the_contract(toolkit: BlobToolkit) -> None:
    old = os.umask(0o077)
    try:
        ref = toolkit.put_bytes(b"x", "x.bin")
        toolkit.promote(ref)
    finally:
        os.umask(old)
    path = toolkit.resolve(ref)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for directory in (path.parent, path.parent.parent, toolkit.root / "staging"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o750


def test_an_active_target_is_fine_and_the_staged_copy_stays(toolkit: BlobToolkit) -> None:
    ref = toolkit.put_bytes(b"x", "x.bin")
    toolkit.promote(ref)
    toolkit.promote(ref)
    again = toolkit.put_bytes(b"x", "x.bin")
    assert again.blob_name == ref.blob_name
    toolkit.promote(again)
    assert staged(toolkit, ref).exists()
    assert toolkit.exists(ref)


def test_a_blob_that_is_sent_again_becomes_young(toolkit: BlobToolkit) -> None:
    ref = toolkit.put_bytes(b"x", "x.bin")
    toolkit.promote(ref)
    age(toolkit.resolve(ref), 40 * DAY, now=time.time())
    toolkit.promote(toolkit.put_bytes(b"x", "x.bin"))
    assert time.time() - toolkit.resolve(ref).stat().st_mtime < DAY


def test_promoting_what_was_never_staged(toolkit: BlobToolkit) -> None:
    ref = toolkit.put_bytes(b"x", "x.bin")
    staged(toolkit, ref).unlink()
    with pytest.raises(NotFound) as caught:
        toolkit.promote(ref)
    assert caught.value.code == "BLOB_NOT_FOUND"
    with pytest.raises(NotFound):
        BlobToolkit(toolkit.root / "nothing here").promote(ref)


def test_an_empty_blob(toolkit: BlobToolkit) -> None:
    ref = toolkit.put_bytes(b"", "")
    toolkit.promote(ref)
    assert ref.blob_name == "blob_e3b0c44298fc1c14.bin"
    assert (ref.size, ref.filename_original) == (0, "blob.bin")
    assert toolkit.stat(ref).exists


def test_size_limit(tmp_path: Path) -> None:
    toolkit = BlobToolkit(tmp_path / "blob", max_blob_bytes=4, durable=False)
    toolkit.put_bytes(b"1234", "a")
    big = tmp_path / "big"
    big.write_bytes(b"12345")
    for call in (lambda: toolkit.put_bytes(b"12345", "a"), lambda: toolkit.put(big)):
        with pytest.raises(Invalid) as caught:
            call()
        assert caught.value.code == "BLOB_TOO_LARGE"
    assert len(files_below(toolkit.root)) == 1
    assert BlobToolkit(tmp_path / "blob", max_blob_bytes=None, durable=False).put(big).size == 5


def test_a_source_that_grows_past_the_limit_while_it_is_read(tmp_path: Path) -> None:
    toolkit = BlobToolkit(tmp_path / "blob", max_blob_bytes=10, durable=False)
    with pytest.raises(Invalid):
        toolkit._stage((b"1234567" for _ in range(2)), "a", None)
    assert files_below(toolkit.root) == []


@pytest.mark.parametrize("name", ["a..b.txt", "x...tar.gz"])
def test_a_name_that_cannot_be_stored_leaves_nothing(toolkit: BlobToolkit, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        toolkit.put_bytes(b"x", name)
    assert caught.value.code == "BLOB_INVALID_NAME"
    assert not toolkit.root.exists()


def test_sources_that_are_not_files(toolkit: BlobToolkit, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        toolkit.put(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", tmp_path):
        with pytest.raises(Unavailable) as caught:
            toolkit.put(source)
        assert caught.value.code == "BLOB_IO_ERROR"


def test_a_failing_write_leaves_nothing(toolkit: BlobToolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object, piece: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs_module, "_write_all", full)
    with pytest.raises(Unavailable) as caught:
        toolkit.put_bytes(b"x" * 100, "a.bin")
    assert (caught.value.code, "No space left" in str(caught.value)) == ("BLOB_IO_ERROR", True)
    assert files_below(toolkit.root) == []


def test_short_writes_are_continued(toolkit: BlobToolkit) -> None:
    class Slow:
        def __init__(self) -> None:
            self.got = b""

        def write(self, piece: memoryview) -> int:
            self.got += bytes(piece[:3])
            return min(3, len(piece))

    slow = Slow()
    blobs_module._write_all(slow, b"0123456789")
    assert slow.got == b"0123456789"


def test_durable_blobs_are_synced_before_they_are_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):
        real = getattr(os, name)

        def spy(fd: int, name: str = name, real=real) -> None:
            kind = "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
            synced.append(f"{name} {kind}")
            real(fd)

        monkeypatch.setattr(os, name, spy)
    toolkit = BlobToolkit(tmp_path / "blob")
    ref = toolkit.put_bytes(b"x", "x.bin")
    assert synced == ["fdatasync file"]
    toolkit.promote(ref)
    assert synced[1:] == ["fsync directory", "fsync directory"]


def test_equal_content_put_and_promoted_by_many_at_once(toolkit: BlobToolkit) -> None:
    refs, problems = [], []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        try:
            for _ in range(25):
                ref = toolkit.put_bytes(b"same", "same.txt")
                toolkit.promote(ref)
                refs.append(ref)
        except FluxbeeError as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert {ref.blob_name for ref in refs} == {refs[0].blob_name}
    assert toolkit.resolve(refs[0]).read_bytes() == b"same"


def test_collection_beside_writers_loses_no_put(toolkit: BlobToolkit) -> None:
    stop, problems = threading.Event(), []

    def collect() -> None:
        while not stop.is_set():
            report = toolkit.run_gc(BlobGcOptions(apply=True))
            problems.extend(report.staging.errors + report.active.errors)

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for number in range(200):
            ref = toolkit.put_bytes(str(number).encode(), "n.txt")
            toolkit.promote(ref)
            assert toolkit.exists(ref)
    finally:
        stop.set()
        collector.join()
    assert problems == []


# --- symbolic links and hostile names -----------------------------------------------------------------------


def test_a_prefix_directory_that_is_a_link_is_not_followed(toolkit: BlobToolkit, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (toolkit.root / "staging").mkdir(parents=True)
    (toolkit.root / "staging" / "57").symlink_to(outside)
    with pytest.raises(Unavailable):
        toolkit.put_bytes(b"hello-blob", "x.png")
    assert list(outside.iterdir()) == []
    assert files_below(toolkit.root) == []


def test_an_area_that_is_a_link_is_not_followed(toolkit: BlobToolkit, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    toolkit.root.mkdir()
    (toolkit.root / "active").symlink_to(outside)
    ref = toolkit.put_bytes(b"hello-blob", "x.png")
    with pytest.raises(Unavailable):
        toolkit.promote(ref)
    report = toolkit.run_gc(BlobGcOptions(apply=True))
    assert len(report.active.errors) == 1
    assert list(outside.iterdir()) == []


def test_a_link_in_place_of_a_blob_is_not_a_blob(toolkit: BlobToolkit, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s")
    ref = toolkit.put_bytes(b"hello-blob", "x.png")
    staged(toolkit, ref).unlink()
    staged(toolkit, ref).symlink_to(secret)
    with pytest.raises(NotFound):
        toolkit.promote(ref)
    toolkit.resolve(ref).parent.mkdir(parents=True)
    toolkit.resolve(ref).symlink_to(secret)
    assert not toolkit.exists(ref)
    assert not toolkit.stat(ref).exists


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "blob").symlink_to(tmp_path / "real")
    toolkit = BlobToolkit(tmp_path / "blob", durable=False)
    ref = toolkit.put_bytes(b"x", "x.bin")
    toolkit.promote(ref)
    assert toolkit.exists(ref)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\x", "a\0b", "x"])
def test_a_hostile_name_resolves_inside_the_root(toolkit: BlobToolkit, name: str) -> None:
    ref = msgspec.structs.replace(toolkit.put_bytes(b"x", "x.bin"), blob_name=name)
    path = toolkit.resolve(ref)
    assert path.parent == toolkit.root / "active" / "00"
    assert ".." not in path.name
    assert not toolkit.exists(ref)
    for call in (toolkit.stat, toolkit.promote):
        with pytest.raises(Invalid) as caught:
            call(ref)
        assert caught.value.code == "BLOB_INVALID_NAME"


def test_stat(toolkit: BlobToolkit) -> None:
    ref = toolkit.put_bytes(b"12345", "x.bin")
    path = str(toolkit.resolve(ref))
    assert msgspec.to_builtins(toolkit.stat(ref)) == {"size_on_disk": 0, "exists": False, "path": path}
    toolkit.promote(ref)
    assert msgspec.to_builtins(toolkit.stat(ref)) == {"size_on_disk": 5, "exists": True, "path": path}


# --- collection ---------------------------------------------------------------------------------------------


@pytest.fixture
def aged(tmp_path: Path) -> BlobToolkit:
    toolkit = BlobToolkit(tmp_path / "blob", durable=False, wall_s=lambda: NOW)
    for number in range(4):
        ref = toolkit.put_bytes(b"s%d" % number, "s.txt")
        age(staged(toolkit, ref), (number * 12) * 3600)
    for number in range(4):
        ref = toolkit.put_bytes(b"a%d" % number, "a.txt")
        toolkit.promote(ref)
        age(toolkit.resolve(ref), number * 15 * DAY)
    return toolkit


def test_a_dry_run_deletes_nothing(aged: BlobToolkit) -> None:
    before = files_below(aged.root)
    report = aged.run_gc()
    assert msgspec.json.decode(msgspec.json.encode(report)) == {
        "apply": False,
        "staging_ttl_hours": 24,
        "active_retain_days": 30,
        "staging": {
            "apply": False,
            "scanned_files": 4,
            "candidate_files": 2,
            "deleted_files": 0,
            "deleted_bytes": 0,
            "skipped_non_blob_files": 0,
            "errors": [],
        },
        "active": {
            "apply": False,
            "scanned_files": 4,
            "candidate_files": 2,
            "deleted_files": 0,
            "deleted_bytes": 0,
            "skipped_non_blob_files": 0,
            "errors": [],
        },
    }
    assert files_below(aged.root) == before


def test_an_applied_run_deletes_candidates_and_empty_directories(aged: BlobToolkit) -> None:
    report = aged.run_gc(BlobGcOptions(apply=True))
    for part in (report.staging, report.active):
        assert (part.candidate_files, part.deleted_files, part.deleted_bytes) == (2, 2, 4)
    assert len(files_below(aged.root)) == 4
    for area in ("staging", "active"):
        directories = [path for path in (aged.root / area).iterdir() if path.is_dir()]
        assert directories
        assert all(list(path.iterdir()) for path in directories)


def test_limits_are_options(aged: BlobToolkit) -> None:
    report = aged.run_gc(BlobGcOptions(staging_ttl_hours=0, active_retain_days=1000, apply=True))
    assert (report.staging.deleted_files, report.active.deleted_files) == (4, 0)
    assert list((aged.root / "staging").iterdir()) == []


def test_strangers_are_left_alone(aged: BlobToolkit, tmp_path: Path) -> None:
    area = aged.root / "staging"
    (area / ".hidden").mkdir()
    outside = tmp_path / "outside_57a256c65db5af18.png"
    outside.write_bytes(b"o")
    strangers = [
        area / ".hidden" / "x_57a256c65db5af18.png",
        area / "notes.txt",
        area / "upper_57a256c65db5af18.PNG",
    ]
    for path in strangers:
        path.write_bytes(b"x")
        age(path, 400 * DAY)
    link = area / "link_57a256c65db5af18.png"
    link.symlink_to(outside)
    age(outside, 400 * DAY)
    report = aged.run_gc(BlobGcOptions(apply=True))
    assert (report.staging.scanned_files, report.staging.skipped_non_blob_files) == (7, 3)
    assert report.staging.deleted_files == 2
    assert all(path.exists() for path in [*strangers, outside, link])


def test_temporary_files_of_killed_writers_go_when_they_are_old(aged: BlobToolkit) -> None:
    old, young = aged.root / "staging" / ".put-1", aged.root / "staging" / ".put-2"
    for path, seconds in ((old, 2 * DAY), (young, 60)):
        path.write_bytes(b"half")
        age(path, seconds)
    aged.run_gc()
    assert old.exists()
    report = aged.run_gc(BlobGcOptions(apply=True))
    assert (old.exists(), young.exists()) == (False, True)
    assert (report.staging.deleted_files, report.staging.skipped_non_blob_files) == (2, 2)


def test_what_cannot_be_deleted_is_reported(aged: BlobToolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *, dir_fd: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "unlink", refuse)
    report = aged.run_gc(BlobGcOptions(apply=True))
    assert (report.staging.candidate_files, report.staging.deleted_files) == (2, 0)
    assert len(report.staging.errors) == 2
    assert "Read-only file system" in report.staging.errors[0]


def test_the_list_of_errors_is_bounded(toolkit: BlobToolkit, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = toolkit.root / "active" / "00"
    directory.mkdir(parents=True)
    for number in range(130):
        (directory / f"x_{number:016x}.bin").touch()
        age(directory / f"x_{number:016x}.bin", 400 * DAY)

    def refuse(name: str, *, dir_fd: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "unlink", refuse)
    errors = toolkit.run_gc(BlobGcOptions(apply=True)).active.errors
    assert (len(errors), errors[-1]) == (101, "and 30 more")


def test_collecting_where_nothing_is(toolkit: BlobToolkit) -> None:
    report = toolkit.run_gc(BlobGcOptions(apply=True))
    assert (report.staging.scanned_files, report.staging.errors) == (0, ())


# --- counters and async ------------------------------------------------------------------------------------


def test_counters_are_the_process_s(toolkit: BlobToolkit) -> None:
    before = blob_metrics()
    ref = toolkit.put_bytes(b"12345", "x.bin")
    toolkit.promote(ref)
    toolkit.resolve(ref)
    with pytest.raises(Invalid):
        toolkit.put_bytes(b"x", "a..b.c")
    after = toolkit.metrics_snapshot()
    assert [
        a - b for a, b in zip(msgspec.structs.astuple(after), msgspec.structs.astuple(before), strict=True)
    ] == [
        1,
        5,
        1,
        0,
        1,
    ]


def test_waiting_for_a_blob_that_comes(toolkit: BlobToolkit) -> None:
    ref = toolkit.put_bytes(b"x", "x.bin")
    before = blob_metrics()

    async def main() -> Path:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def promote_later() -> None:
                await trio.sleep(0.5)
                await AsyncBlobToolkit(toolkit).promote(ref)

            return await toolkit.resolve_with_retry(ref)

    clock = trio.testing.MockClock(autojump_threshold=0.05)
    assert trio.run(main, clock=clock) == toolkit.resolve(ref)
    assert blob_metrics().blob_resolve_retry_total > before.blob_resolve_retry_total


def test_waiting_for_a_blob_that_never_comes(toolkit: BlobToolkit) -> None:
    ref = toolkit.put_bytes(b"x", "x.bin")

    async def main() -> None:
        with pytest.raises(NotFound) as caught:
            await toolkit.resolve_with_retry(ref)
        assert caught.value.code == "BLOB_NOT_FOUND"
        assert trio.current_time() - began == pytest.approx(5.0)

    clock = trio.testing.MockClock(autojump_threshold=0.05)
    began = clock.current_time()
    trio.run(main, clock=clock)


def test_waiting_runs_on_asyncio_too(toolkit: BlobToolkit) -> None:
    ref = toolkit.put_bytes(b"x", "x.bin")
    bad = msgspec.structs.replace(ref, mime="")

    async def main() -> None:
        blobs = AsyncBlobToolkit(toolkit)
        with pytest.raises(NotFound):
            await blobs.resolve_with_retry(ref, ResolveRetry(max_wait_ms=0))
        with pytest.raises(Invalid):
            await blobs.resolve_with_retry(bad)
        await blobs.promote(ref)
        assert await blobs.resolve_with_retry(ref) == blobs.resolve(ref)

    asyncio.run(main())


def test_the_async_face_offers_the_same(toolkit: BlobToolkit, tmp_path: Path) -> None:
    source = tmp_path / "f.txt"
    source.write_text("hi")

    async def main() -> None:
        blobs = AsyncBlobToolkit(toolkit)
        ref = await blobs.put(source)
        assert ref == msgspec.structs.replace(
            await blobs.put_bytes(b"hi", "f.txt", "text/plain"), spool_day=ref.spool_day
        )
        assert not await blobs.exists(ref)
        await blobs.promote(ref)
        assert await blobs.exists(ref)
        assert (await blobs.stat(ref)).size_on_disk == 2
        assert (await blobs.run_gc()).active.scanned_files == 1

    trio.run(main)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.privileged
def test_a_full_disk_leaves_nothing_half_made(small_disk: Path, tmp_path: Path) -> None:
    toolkit = BlobToolkit(small_disk / "blob")
    kept = toolkit.put_bytes(b"k" * 50_000, "kept.bin")
    toolkit.promote(kept)
    source = tmp_path / "big"
    source.write_bytes(os.urandom(400_000))
    for call in (lambda: toolkit.put(source), lambda: toolkit.put_bytes(source.read_bytes(), "big")):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.code == "BLOB_IO_ERROR"
        assert "No space left" in str(caught.value)
    assert files_below(small_disk / "blob") == [f"active/{toolkit.prefix(kept.blob_name)}/{kept.blob_name}"]
    toolkit.promote(toolkit.put_bytes(b"s" * 50_000, "small.bin"))


@pytest.mark.process
def test_a_killed_writer_leaves_only_a_temporary_file(toolkit: BlobToolkit) -> None:
    toolkit.put_bytes(b"first", "first.txt")  # makes the directories
    before = files_below(toolkit.root)
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:

        def endless() -> Iterator[bytes]:
            yield b"half a blob"
            os.write(go, b"x")
            while True:
                time.sleep(1)

        try:
            toolkit._stage(endless(), "victim.bin", None)
        finally:
            os._exit(1)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(go)
    (left,) = set(files_below(toolkit.root)) - set(before)
    assert left.startswith("staging/.put-")
    age(toolkit.root / left, 2 * DAY, now=time.time())
    toolkit.run_gc(BlobGcOptions(apply=True))
    assert files_below(toolkit.root) == before
