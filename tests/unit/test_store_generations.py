from __future__ import annotations

import errno
import mmap
import os
import struct
import threading
from pathlib import Path

import pytest

from appliance.store.generations import PAGE_BYTES, SLOTS, GenerationPage, slot_of
from appliance.wire.errors import Misconfigured, NotFound, Unavailable

CONFIG = SLOTS["config"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "generations"


def test_what_one_announces_all_see(path: Path) -> None:
    owner, other = GenerationPage.create(path), GenerationPage.create(path)
    reader = GenerationPage.open(path)
    look = reader.getter(CONFIG)
    assert reader.get(CONFIG) == look() == reader.words[CONFIG] == 0
    owner.announce(CONFIG, 7)
    assert reader.get(CONFIG) == look() == reader.words[CONFIG] == other.get(CONFIG) == 7
    other.announce(SLOTS["world"], 2**64 - 1)
    assert reader.get(SLOTS["world"]) == 2**64 - 1
    assert reader.get(SLOTS["identity"]) == 0
    assert owner.statistics().announcements == 1


def test_the_layout_is_words_in_host_order_behind_a_magic_number(path: Path) -> None:
    page = GenerationPage.create(path)
    page.announce(CONFIG, 258)
    raw = path.read_bytes()
    assert len(raw) == PAGE_BYTES
    assert struct.unpack_from("=Q", raw)[0] == int.from_bytes(b"FXBGEN01", "big")
    assert struct.unpack_from("=Q", raw, 8 * CONFIG)[0] == 258


def test_the_registry_does_not_change() -> None:
    assert SLOTS == {
        "router": 1,
        "node": 2,
        "config": 3,
        "lsa": 4,
        "opa": 5,
        "identity": 6,
        "memory": 7,
        "world": 8,
        "thread": 9,
    }
    assert slot_of("opa") == 5
    with pytest.raises(Misconfigured):
        slot_of("nobody")


def test_a_page_that_is_there_is_kept(path: Path) -> None:
    GenerationPage.create(path).announce(CONFIG, 41)
    inode = path.stat().st_ino
    page = GenerationPage.create(path)
    assert (page.get(CONFIG), path.stat().st_ino) == (41, inode)


@pytest.mark.parametrize("content", [b"x", b"garbage" * 1000, bytes(PAGE_BYTES)])
def test_what_is_not_a_page_is_overwritten_in_place(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    inode = path.stat().st_ino
    with pytest.raises(NotFound):
        GenerationPage.open(path)
    page = GenerationPage.create(path)
    assert [page.get(slot) for slot in SLOTS.values()] == [0] * len(SLOTS)
    page.announce(CONFIG, 1)
    assert GenerationPage.open(path).get(CONFIG) == 1
    assert path.stat().st_ino == inode


def test_a_generation_never_goes_back(path: Path) -> None:
    page = GenerationPage.create(path)
    page.announce(CONFIG, 5)
    page.announce(CONFIG, 5)
    for slot, generation in ((CONFIG, 4), (0, 99), (512, 1), (-1, 1)):
        with pytest.raises(ValueError):
            page.announce(slot, generation)
    assert page.get(CONFIG) == 5


def test_a_missing_page_and_other_things(path: Path, tmp_path: Path) -> None:
    for place in (path, tmp_path):
        with pytest.raises((NotFound, Unavailable)):
            GenerationPage.open(place)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    with pytest.raises(Unavailable):
        GenerationPage.create(link)
    assert not (tmp_path / "target").exists()


def test_a_reader_cannot_write(path: Path) -> None:
    GenerationPage.create(path)
    with pytest.raises(TypeError):
        GenerationPage.open(path).announce(CONFIG, 1)


def test_sleeping_readers_are_woken(path: Path) -> None:
    page = GenerationPage.create(path)
    fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
    for fd in fds:
        page.add_waker(fd)
    page.announce(CONFIG, 1)
    page.announce(CONFIG, 2)
    assert [os.eventfd_read(fd) for fd in fds] == [2, 2]
    page.remove_waker(fds[0])
    page.announce(CONFIG, 3)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fds[0])
    assert os.eventfd_read(fds[1]) == 1
    assert (page.statistics().wakes, page.statistics().wakes_failed) == (5, 0)
    os.close(fds[0])


def test_a_reader_that_does_not_look_and_one_that_is_gone(path: Path) -> None:
    page = GenerationPage.create(path)
    full = os.eventfd(0, os.EFD_NONBLOCK)
    os.eventfd_write(full, 2**64 - 2)
    page.add_waker(full)
    page.announce(CONFIG, 1)
    assert (page.statistics().wakes, page.statistics().wakes_failed) == (1, 0)
    os.close(full)
    page.announce(CONFIG, 2)
    assert (page.statistics().wakes, page.statistics().wakes_failed) == (1, 1)
    assert page.get(CONFIG) == 2


def test_a_closed_page(path: Path) -> None:
    page = GenerationPage.create(path)
    look = page.getter(CONFIG)
    page.close()
    with pytest.raises(ValueError):
        look()


def test_no_space_is_an_error_and_not_a_signal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unavailable) as caught:
        GenerationPage.create(path)
    assert caught.value.code == "STORAGE_FULL"


def test_blocks_are_there_before_the_page_is_mapped(path: Path) -> None:
    GenerationPage.create(path)
    assert path.stat().st_blocks * 512 >= PAGE_BYTES


def test_a_word_is_never_seen_half_written(path: Path) -> None:
    """Writer and reader in two processes: a torn store would show a mixture of the two values."""
    page = GenerationPage.create(path)
    low, high = 0x00000001_00000001, 0xFFFFFFFE_FFFFFFFE
    pid = os.fork()
    if pid == 0:
        words = GenerationPage.create(path).words
        while words[100] == 0:
            words[CONFIG] = low
            words[CONFIG] = high
        os._exit(0)
    look, seen = page.getter(CONFIG), set()
    try:
        for _ in range(300_000):
            seen.add(look())
    finally:
        page.words[100] = 1
        os.waitpid(pid, 0)
    assert seen <= {0, low, high}


def test_threads_may_look_while_one_announces(path: Path) -> None:
    page = GenerationPage.create(path)
    last, problems = [0], []

    def watch() -> None:
        reader, before = GenerationPage.open(path), 0
        while before < 2000:
            now = reader.get(CONFIG)
            if now < before:
                problems.append((before, now))
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    for generation in range(1, 2001):
        page.announce(CONFIG, generation)
        last[0] = generation
    thread.join()
    assert problems == []


def test_the_page_is_as_large_as_a_page_of_memory() -> None:
    assert mmap.PAGESIZE % PAGE_BYTES == 0
