from __future__ import annotations

import os
import signal
import struct
import threading
from pathlib import Path

import lmdb
import pytest

from appliance.store import region_check
from appliance.store.region_check import Depth, probe, read_meta_pages
from appliance.system.process import children

MAP_BYTES = 16 << 20


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "x.mdb"
    env = lmdb.open(str(path), subdir=False, map_size=MAP_BYTES, max_dbs=4, sync=False)
    plain, many = env.open_db(b"plain"), env.open_db(b"many", dupsort=True)
    with env.begin(write=True) as txn:
        for number in range(500):
            txn.put(b"%06d" % number, b"v" * 100, db=plain)
            txn.put(b"key", b"%06d" % number, db=many)
    with env.begin(write=True) as txn:
        for number in range(0, 500, 2):
            txn.delete(b"%06d" % number, db=plain)
    env.close()
    return path


def test_meta_pages_of_a_sound_file(sound: Path) -> None:
    meta = read_meta_pages(sound)
    env = lmdb.open(str(sound), subdir=False, readonly=True, lock=False)
    info = env.info()
    assert (meta.page_bytes, meta.last_page, meta.txnid) == (
        env.stat()["psize"],
        info["last_pgno"],
        info["last_txnid"],
    )
    assert meta.map_bytes == MAP_BYTES
    assert meta.file_bytes == sound.stat().st_size
    assert not meta.short
    env.close()


def test_a_fresh_file_is_sound(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path / "x.mdb"), subdir=False).close()
    assert read_meta_pages(tmp_path / "x.mdb").txnid == 0
    assert probe(tmp_path / "x.mdb", map_bytes=MAP_BYTES, depth=Depth.PAGES) == ""


@pytest.mark.parametrize("depth", Depth)
def test_a_sound_file_passes_and_is_not_changed(sound: Path, depth: Depth) -> None:
    before = sound.read_bytes()
    assert probe(sound, map_bytes=MAP_BYTES, depth=depth) == ""
    assert sound.read_bytes() == before
    assert sorted(os.listdir(sound.parent)) == ["x.mdb", "x.mdb-lock"]


def test_a_file_whose_last_pages_were_never_written_is_short_and_sound(tmp_path: Path) -> None:
    path = tmp_path / "x.mdb"
    env = lmdb.open(str(path), subdir=False, map_size=MAP_BYTES, max_dbs=1, sync=False)
    db = env.open_db(b"t")
    with env.begin(write=True, db=db) as txn:
        txn.put(b"big", bytes(1_000_000))
        txn.delete(b"big")
    with env.begin(write=True, db=db) as txn:
        for number in range(500):
            txn.put(b"%05d" % number, b"v" * 100)
    with env.begin(write=True, db=db) as txn:
        for number in range(500):
            txn.delete(b"%05d" % number)
        txn.put(b"big", bytes(1_000_000))
        txn.delete(b"big")
    env.close()
    assert read_meta_pages(path).short
    assert probe(path, map_bytes=MAP_BYTES, depth=Depth.PAGES) == ""


@pytest.mark.parametrize("content", [b"", b"x", b"garbage" * 100, bytes(8192), b"\xde\xc0\xef\xbe" * 3000])
def test_what_is_no_environment(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mdb"
    path.write_bytes(content)
    with pytest.raises(ValueError):
        read_meta_pages(path)


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [
        (16, struct.pack("=I", 0), "not an LMDB"),
        (20, struct.pack("=I", 7), "a meta page"),
        (10, struct.pack("=H", 0), "a meta page"),
        (40, struct.pack("=I", 0), "page size"),
        (40, struct.pack("=I", 4097), "page size"),
        (40, struct.pack("=I", 1 << 20), "page size"),
        (40, struct.pack("=I", 8192), "meta page"),
        (46, struct.pack("=H", 99), "deeper"),
        (80, struct.pack("=Q", 1 << 40), "root"),
        (128, struct.pack("=Q", 1 << 40), "root"),
        (4096 + 16, b"\0\0\0\0", "a meta page"),
    ],
)
def test_broken_meta_pages(sound: Path, offset: int, value: bytes, what: str) -> None:
    raw = bytearray(sound.read_bytes())
    raw[offset : offset + len(value)] = value
    sound.write_bytes(raw)
    with pytest.raises(ValueError, match=what):
        read_meta_pages(sound)


def test_a_file_that_ends_in_its_meta_pages(sound: Path) -> None:
    raw = sound.read_bytes()
    for size in (10, 100, 4096, 4200):
        sound.write_bytes(raw[:size])
        with pytest.raises(ValueError):
            read_meta_pages(sound)


def test_last_page_below_the_meta_pages(sound: Path) -> None:
    raw = bytearray(sound.read_bytes())
    for page in (0, 4096):
        struct.pack_into("=QQ", raw, page + 80, region_check._NO_PAGE, 0)  # no root of free pages
        struct.pack_into("=Q", raw, page + 128, region_check._NO_PAGE)
        struct.pack_into("=Q", raw, page + 136, 0)
    sound.write_bytes(raw)
    with pytest.raises(ValueError, match="last page 0"):
        read_meta_pages(sound)


def test_a_truncated_file_kills_only_the_child(sound: Path) -> None:
    os.truncate(sound, 3 * 4096)
    assert read_meta_pages(sound).short
    for depth in Depth:
        assert probe(sound, map_bytes=MAP_BYTES, depth=depth) != ""


def test_zeroed_pages_are_found(sound: Path) -> None:
    raw = bytearray(sound.read_bytes())
    raw[2 * 4096 :] = bytes(len(raw) - 2 * 4096)
    sound.write_bytes(raw)
    assert probe(sound, map_bytes=MAP_BYTES, depth=Depth.ENDS) != ""


def test_rows_that_contradict_the_count_are_found(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted in (1, 10_000):
        monkeypatch.setattr(region_check, "_walk_table", _with_count(region_check._walk_table, wanted))
        assert "ValueError: table b'many'" in probe(sound, map_bytes=MAP_BYTES, depth=Depth.ROWS)
        monkeypatch.undo()


def _with_count(real, wanted: int):
    class Stat:
        def __init__(self, txn: lmdb.Transaction) -> None:
            self._txn = txn

        def stat(self, db: object) -> dict[str, int]:
            return {"entries": wanted}

        def cursor(self, db: object) -> lmdb.Cursor:
            return self._txn.cursor(db)

    return lambda txn, db, name, depth: real(Stat(txn), db, name, depth)


def test_a_missing_file_is_the_caller_s_affair(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_meta_pages(tmp_path / "none")


def test_a_child_that_hangs_is_killed(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_check, "_walk", lambda *_args, **_kw: signal.pause())
    before = children()
    assert "longer than 0.2 s" in probe(sound, map_bytes=MAP_BYTES, depth=Depth.PAGES, deadline_s=0.2)
    assert children() == before


def test_a_child_that_talks_too_much_is_cut_off(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shout(*_args: object, **_kw: object) -> None:
        while True:
            os.write(2, b"mdb.c: Assertion failed\n" * 100)

    monkeypatch.setattr(region_check, "_walk", shout)
    assert probe(sound, map_bytes=MAP_BYTES, depth=Depth.PAGES) != ""


def test_the_probe_works_beside_threads(sound: Path) -> None:
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(probe(sound, map_bytes=MAP_BYTES, depth=Depth.PAGES)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [""] * 4


def test_it_works_where_children_are_not_waited_for(sound: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert probe(sound, map_bytes=MAP_BYTES, depth=Depth.PAGES) == ""
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_damage_in_the_list_of_free_pages_is_found_page_by_page(sound: Path) -> None:
    raw = bytearray(sound.read_bytes())
    newer = max(0, 4096, key=lambda page: struct.unpack_from("=Q", raw, page + 144)[0])
    root = struct.unpack_from("=Q", raw, newer + 80)[0]
    raw[root * 4096 + 17] ^= 0x40  # where the first node of the page lies
    sound.write_bytes(raw)
    assert "freeDB" in probe(sound, map_bytes=MAP_BYTES, depth=Depth.PAGES)


def test_a_file_of_lmdb_1_0_is_understood_too(tmp_path: Path) -> None:
    path = tmp_path / "x.mdb"
    env = lmdb.open(str(path), subdir=False, max_dbs=1, lib_version=1)
    with env.begin(write=True) as txn:
        txn.put(b"k", b"v", db=env.open_db(b"t", txn=txn))
    last_page = env.info()["last_pgno"]
    env.close()
    assert read_meta_pages(path).last_page == last_page
    assert probe(path, map_bytes=MAP_BYTES, depth=Depth.PAGES) == ""
