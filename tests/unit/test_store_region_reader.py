from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import lmdb
import pytest

from appliance.store import region_handle
from appliance.store.region import Environment
from appliance.store.region_admit import EnvironmentSpec
from appliance.store.region_codec import RAW, UTF8
from appliance.store.region_reader import RegionReader
from appliance.store.region_table import RegionSpec, Table
from appliance.wire.errors import Damaged, FluxbeeError, NotFound, Unavailable
from tests.unit.store_regions import ALIAS, CONFIG, EVENT, IDENTITY, MEMBER, REGIONS, SMALL


def put(env: Environment, key: str, value: bytes) -> None:
    with env.change("config") as txn:
        ALIAS.put(txn, key, value)


def test_a_reader_beside_the_writer_sees_every_commit(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env, RegionReader(env.path, REGIONS) as reader:
        assert reader.get(ALIAS, "a") is None
        put(env, "a", b"1")
        assert reader.get(ALIAS, "a") == b"1"
        assert reader.generation("config") == env.generation("config")
        assert not reader.ready("config")
        env.finish_rebuild("config")
        assert reader.ready("config")
        assert reader.row("config") == env.row("config")
        assert (reader.row("opa"), reader.generation("opa"), reader.ready("opa")) == (None, 0, False)
        assert list(reader.items(ALIAS)) == [("a", b"1")]
        assert reader.count(ALIAS) == 1
        assert reader.values(MEMBER, "x") == []


def test_a_read_block_stays_with_its_moment(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env, RegionReader(env.path) as reader:
        put(env, "a", b"1")
        with reader.read() as txn:
            put(env, "a", b"2")
            put(env, "b", b"2")
            assert ALIAS.get(txn, "a") == b"1"
            assert list(ALIAS.items(txn)) == [("a", b"1")]
        assert reader.get(ALIAS, "a") == b"2"


def test_a_reader_may_come_before_the_environment(tmp_path: Path) -> None:
    with RegionReader(tmp_path / "small.mdb", REGIONS) as reader:
        with pytest.raises(NotFound) as caught:
            reader.get(ALIAS, "a")
        assert caught.value.code == "REGION_MISSING"
        with Environment(SMALL, tmp_path, REGIONS) as env:
            put(env, "a", b"1")
            assert reader.get(ALIAS, "a") == b"1"
        assert reader.get(ALIAS, "a") == b"1"
        assert reader.statistics().failures == 1


def test_a_writer_takes_over_from_readers_and_they_go_on_when_it_leaves(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env:
        for region in REGIONS:
            env.finish_rebuild(region.name)
        put(env, "a", b"1")
    with RegionReader(tmp_path / "small.mdb", REGIONS) as reader:
        assert reader.get(ALIAS, "a") == b"1"
        with Environment(SMALL, tmp_path, REGIONS) as env:
            assert env.opened.kept
            put(env, "a", b"2")
            assert reader.get(ALIAS, "a") == b"2"
        assert reader.get(ALIAS, "a") == b"2"
        with Environment(SMALL, tmp_path, REGIONS) as env:
            assert env.opened.kept


def test_a_replaced_environment_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "small.mdb"
    with RegionReader(path, REGIONS) as reader:
        with Environment(SMALL, tmp_path, REGIONS) as env:
            put(env, "a", b"1")
        assert reader.get(ALIAS, "a") == b"1"
        with reader.read() as txn:
            path.unlink()
            (tmp_path / "small.mdb-lock").unlink()
            with pytest.raises(NotFound):
                reader.get(ALIAS, "a")
            with Environment(SMALL, tmp_path, REGIONS) as env:
                put(env, "b", b"2")
            assert (reader.get(ALIAS, "a"), reader.get(ALIAS, "b")) == (None, b"2")
            assert ALIAS.get(txn, "a") == b"1"


def test_readers_of_one_process_share_the_file(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env:
        put(env, "a", b"1")
    one, two = RegionReader(tmp_path / "small.mdb"), RegionReader(tmp_path / "." / "small.mdb")
    assert one.get(ALIAS, "a") == two.get(ALIAS, "a") == b"1"
    one.close()
    one.close()
    assert two.get(ALIAS, "a") == b"1"
    with pytest.raises(Unavailable) as caught:
        one.get(ALIAS, "a")
    assert caught.value.code == "REGION_CLOSED"
    two.close()
    assert os.path.realpath(tmp_path / "small.mdb") not in region_handle._handles


def test_another_schema_is_refused_until_the_owner_has_it_too(tmp_path: Path) -> None:
    newer = RegionSpec(name="config", schema=2, tables=CONFIG.tables)
    with RegionReader(tmp_path / "small.mdb", [newer]) as reader:
        with Environment(SMALL, tmp_path, REGIONS):
            with pytest.raises(Unavailable) as caught:
                reader.get(ALIAS, "a")
            assert caught.value.code == "REGION_SCHEMA"
            assert "schema 1" in str(caught.value)
        with Environment(SMALL, tmp_path, (newer, IDENTITY)):
            assert reader.get(ALIAS, "a") is None


def test_a_table_that_the_owner_makes_later_is_found(tmp_path: Path) -> None:
    late = Table("late", UTF8, RAW)
    older = RegionSpec(name="config", schema=1, tables=(ALIAS,))
    newer = RegionSpec(name="config", schema=1, tables=(ALIAS, late))
    with RegionReader(tmp_path / "small.mdb", [newer]) as reader:
        with Environment(SMALL, tmp_path, [older]) as env:
            env.finish_rebuild("config")
            assert reader.get(late, "x") is None
        assert reader.get(late, "x") is None
        with Environment(SMALL, tmp_path, [newer]) as env:
            with env.change("config") as txn:
                late.put(txn, "x", b"1")
            assert reader.get(late, "x") == b"1"
        assert reader.get(late, "x") == b"1"


def test_what_is_no_environment_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "small.mdb"
    path.write_bytes(b"garbage" * 1000)
    with RegionReader(path) as reader:
        with pytest.raises(Damaged) as caught:
            reader.get(ALIAS, "a")
        assert caught.value.code == "REGION_DAMAGED"
        path.unlink()
        path.mkdir()
        with pytest.raises(FluxbeeError):
            reader.get(ALIAS, "a")
        path.rmdir()


def test_a_row_that_does_not_decode_is_counted(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env, RegionReader(env.path) as reader:
        with env.change("identity") as txn:
            Table("event", UTF8, RAW).put(txn, "not a u64", b"")
        with pytest.raises(Damaged):
            list(reader.items(EVENT))
        assert reader.statistics().damages == 1
        assert env.statistics().damages == 0


def test_an_iterator_that_is_dropped_ends_its_view(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env:
        for number in range(5):
            put(env, str(number), b"")
        rows = env.items(ALIAS)
        assert next(rows)[0] == "0"
        assert env.statistics().readers == 1
        rows.close()
        assert env.statistics().readers == 0


def test_readers_in_threads_beside_a_writer_that_comes_and_goes(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env:
        put(env, "a", b"0")
    stop, problems, seen = threading.Event(), [], set()

    def read() -> None:
        with RegionReader(tmp_path / "small.mdb", REGIONS) as reader:
            while not stop.is_set():
                try:
                    seen.add(reader.get(ALIAS, "a"))
                except Unavailable:
                    continue  # closed or claimed at that moment; the next try succeeds
                except (FluxbeeError, lmdb.Error) as error:
                    problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10):
        with Environment(SMALL, tmp_path, REGIONS) as env:
            for region in REGIONS:
                env.finish_rebuild(region.name)
            put(env, "a", b"%d" % number)
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert seen <= {None, *(b"%d" % number for number in range(10))}


def test_a_map_that_grew_is_mapped_anew(tmp_path: Path) -> None:
    small = EnvironmentSpec(name="grown", on_disk=False, sync=False, map_bytes=1 << 20)
    large = EnvironmentSpec(name="grown", on_disk=False, sync=False, map_bytes=64 << 20)
    with Environment(small, tmp_path, REGIONS) as env:
        for region in REGIONS:
            env.finish_rebuild(region.name)
        put(env, "a", b"1")
    pid, go, done = start_reader_process(tmp_path / "grown.mdb")
    with Environment(large, tmp_path, REGIONS) as env:
        assert env.opened.kept
        for number in range(40):
            put(env, f"big {number}", bytes(100_000))
        os.write(go, b"x")
        assert os.read(done, 100) == b"40"
    os.waitpid(pid, 0)


def start_reader_process(path: Path) -> tuple[int, int, int]:
    """A child that opens ``path`` at once, waits for a byte, then counts the big rows it can read."""
    go_read, go = os.pipe()
    done, done_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            reader = RegionReader(path, REGIONS)
            reader.get(ALIAS, "a")
            os.write(done_write, b"ready")
            os.read(go_read, 1)
            big = [key for key, value in reader.items(ALIAS) if len(value) == 100_000]
            os.write(done_write, str(len(big)).encode())
        except (FluxbeeError, lmdb.Error) as error:
            os.write(done_write, repr(error).encode())
        finally:
            os._exit(0)
    assert os.read(done, 100) == b"ready"
    return pid, go, done


def test_a_copy_of_the_file_is_another_environment(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env:
        put(env, "a", b"1")
    shutil.copy(tmp_path / "small.mdb", tmp_path / "copy.mdb")
    with RegionReader(tmp_path / "copy.mdb", lock=False) as copy, RegionReader(tmp_path / "small.mdb") as one:
        assert copy.get(ALIAS, "a") == one.get(ALIAS, "a") == b"1"
    assert not (tmp_path / "copy.mdb-lock").exists()


def test_a_reader_does_not_get_in_while_the_owner_opens(tmp_path: Path) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env:
        put(env, "a", b"1")
    with RegionReader(tmp_path / "small.mdb") as reader:
        handle = reader._handle
        assert handle is not None
        handle.claim()
        with pytest.raises(Unavailable) as caught:
            reader.get(ALIAS, "a")
        assert caught.value.code == "REGION_CLOSED"
        handle.close()
        assert reader.get(ALIAS, "a") == b"1"


def test_lmdb_s_own_refusals_are_translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Environment(SMALL, tmp_path, REGIONS) as env:
        put(env, "a", b"1")

    def refuse(*_: object, **__: object) -> lmdb.Environment:
        raise lmdb.ReadersFullError("mdb_txn_begin", 0)

    with RegionReader(tmp_path / "small.mdb") as reader:
        with monkeypatch.context() as patch:
            patch.setattr(lmdb, "open", refuse)
            with pytest.raises(FluxbeeError) as caught:
                reader.get(ALIAS, "a")
        assert caught.value.code == "REGION_READERS_FULL"
        assert reader.get(ALIAS, "a") == b"1"
