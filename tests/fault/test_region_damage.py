"""Environments whose bytes were changed, cut or replaced: opening them must never end the process.

Each opening runs in a child, so that a SIGBUS or SIGSEGV would be seen. LMDB has no checksums: a changed byte
inside a key or value passes as such (see ``region_check``); what counts here is that the child lives, and
that the result is a readable environment, a fresh one, or an error that makes the next start a fresh one.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.fault.region_kit import filled, verdict_in_a_child
from tests.unit.store_regions import SYNCED

pytestmark = pytest.mark.process

PAGE = 4096


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("original")
    filled(directory, SYNCED)
    return directory


def attempt(original: Path, directory: Path, content: bytes) -> str:
    """Put ``content`` in place of the environment's file and open it; returns the child's words."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(original, directory)
    (directory / "synced.mdb").write_bytes(content)
    code, words = verdict_in_a_child(directory, SYNCED)
    assert code == 0, f"the process ended with {code}"
    assert words
    asides = list(directory.glob("*.damaged-*"))
    if words.startswith("rebuilt"):
        assert len(asides) == 1
        assert asides[0].read_bytes() == content
        assert words == "rebuilt 0 0 0"
    else:
        assert asides == []
        if "damaged" in words:  # found by reading or writing: the next start does without the file
            assert verdict_in_a_child(directory, SYNCED) == (0, "rebuilt 0 0 0")
    return words


def test_the_original_is_sound(original: Path, tmp_path: Path) -> None:
    content = (original / "synced.mdb").read_bytes()
    assert attempt(original, tmp_path / "x", content) == "kept 1333 1 2000"


@pytest.mark.slow
def test_truncated_anywhere(original: Path, tmp_path: Path) -> None:
    content = (original / "synced.mdb").read_bytes()
    sizes = {
        1,
        15,
        100,
        PAGE - 1,
        PAGE,
        2 * PAGE - 1,
        2 * PAGE,
        3 * PAGE,
        len(content) - 1,
        len(content) - PAGE,
    }
    sizes |= set(range(0, len(content), len(content) // 12))
    for size in sorted(sizes - {0}):
        words = attempt(original, tmp_path / "x", content[:size])
        assert words.startswith("rebuilt") or words == "kept 1333 1 2000", size


@pytest.mark.slow
def test_pages_of_garbage_or_zeros(original: Path, tmp_path: Path) -> None:
    content = (original / "synced.mdb").read_bytes()
    chance = random.Random(1)
    pages = sorted({0, 1, 2, 3, *chance.sample(range(len(content) // PAGE), 30)})
    rebuilt = 0
    for page in pages:
        for filling in (bytes(PAGE), chance.randbytes(PAGE)):
            damaged = content[: page * PAGE] + filling + content[(page + 1) * PAGE :]
            rebuilt += attempt(original, tmp_path / "x", damaged).startswith("rebuilt")
    assert rebuilt >= 8  # the two meta pages at least; free pages and the insides of large values pass


@pytest.mark.slow
def test_single_bytes_changed_anywhere(original: Path, tmp_path: Path) -> None:
    content = (original / "synced.mdb").read_bytes()
    chance = random.Random(2)
    offsets = [chance.randrange(len(content)) for _ in range(60)]
    offsets += [chance.randrange(2 * PAGE) for _ in range(20)]
    # Page headers and the heads of the tables of offsets, where a wrong number leads LMDB astray.
    offsets += [chance.randrange(len(content) // PAGE) * PAGE + chance.randrange(64) for _ in range(80)]
    for offset in offsets:
        damaged = bytearray(content)
        damaged[offset] ^= chance.randrange(1, 256)
        attempt(original, tmp_path / "x", bytes(damaged))


@pytest.mark.slow
def test_pages_that_belong_elsewhere(original: Path, tmp_path: Path) -> None:
    """Misdirected writes: whole sound pages in wrong places, old versions, files of others."""
    content = (original / "synced.mdb").read_bytes()
    chance, count = random.Random(3), len(content) // PAGE
    for _ in range(25):
        source, target = chance.randrange(count), chance.randrange(2, count)
        page = content[source * PAGE : (source + 1) * PAGE]
        damaged = content[: target * PAGE] + page + content[(target + 1) * PAGE :]
        attempt(original, tmp_path / "x", damaged)


def test_files_of_something_else(original: Path, tmp_path: Path) -> None:
    for content in (b"\x7fELF" + bytes(10_000), b"{}", bytes(1 << 20), b"\xff" * (1 << 20)):
        assert attempt(original, tmp_path / "x", content) == "rebuilt 0 0 0"
