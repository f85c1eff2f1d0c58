from __future__ import annotations

import threading
from pathlib import Path

import lmdb
import pytest

from appliance.store.region_handle import attach, detach
from appliance.wire.errors import Damaged, NotFound, Unavailable
from tests.unit.store_regions import SMALL


def make(path: Path) -> None:
    env = lmdb.open(str(path), subdir=False, max_dbs=4)
    db = env.open_db(b"t")
    with env.begin(write=True) as txn:
        txn.put(b"k", b"v", db=db)
    env.close()


def test_everybody_gets_the_same_handle_until_the_last_one_leaves(tmp_path: Path) -> None:
    path = tmp_path / "x.mdb"
    make(path)
    first, second = attach(path, lock=True), attach(tmp_path / "." / "x.mdb", lock=True)
    assert first is second
    env, dbs = first.current()
    assert list(dbs) == ["t"]
    detach(first)
    assert second.current()[0] is env
    detach(second)
    assert second.env is None
    third = attach(path, lock=True)
    assert third is not first
    detach(third)


def test_a_writer_replaces_readers_and_gives_the_place_back(tmp_path: Path) -> None:
    path = tmp_path / "x.mdb"
    make(path)
    reader, writer = attach(path, lock=True), attach(path, lock=True)
    reader.current()
    env = writer.open_writer(SMALL)
    assert reader.current()[0] is env
    reader.expire()
    assert reader.current()[0] is env
    writer.close()
    assert reader.current()[0] is not env
    assert reader.current()[0].flags()["readonly"]
    detach(reader)
    detach(writer)


def test_a_file_that_changes_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "x.mdb", tmp_path / "other.mdb"
    make(path)
    make(other)
    handle = attach(path, lock=False)
    real = lmdb.open

    def replace_then_open(*args: object, **more: object) -> lmdb.Environment:
        other.rename(path)
        return real(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", replace_then_open)
        with pytest.raises(Unavailable):
            handle.current()
    assert handle.current()[1].keys() == {"t"}
    detach(handle)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.mdb"
    handle = attach(path, lock=True)
    with pytest.raises(NotFound):
        handle.current()
    path.write_bytes(b"x" * 9000)
    with pytest.raises(Damaged):
        handle.current()
    with pytest.raises(Damaged):
        handle.open_writer(SMALL)
    detach(handle)


def test_many_threads_open_it_once(tmp_path: Path) -> None:
    path = tmp_path / "x.mdb"
    make(path)
    handle, seen, start = attach(path, lock=True), [], threading.Barrier(8)

    def work() -> None:
        start.wait()
        seen.append(handle.current()[0])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(env) for env in seen}) == 1
    detach(handle)
