"""The module store: whole or not there, never changed, and nothing leaves its place."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.supervise.modules import ModuleStore
from appliance.supervise.tree import TreeLimits
from appliance.wire.errors import Conflict, FluxbeeError, Invalid, NotFound, Unavailable

LIMITS = TreeLimits(max_bytes=1 << 16, max_entries=20, max_depth=4)


@pytest.fixture
def store(tmp_path):
    return ModuleStore(tmp_path / "modules", LIMITS)


def member(name, content=b"x", *, kind=tarfile.REGTYPE, mode=0o644, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, content


def archive(*members):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as made:
        for info, content in members:
            made.addfile(info, io.BytesIO(content))
    return target.getvalue()


GOOD = archive(
    member("./", kind=tarfile.DIRTYPE),
    member("./bin", kind=tarfile.DIRTYPE),
    member("./bin/run", b"#!/bin/sh\n", mode=0o755),
    member("data/a.txt", b"a"),
)


def test_a_module_is_stored_listed_and_found(store, tmp_path):
    assert (store.names(), store.versions("billing")) == ([], [])
    store.store("billing", "1.0.1+b", GOOD)
    store.store("billing", "1.0.0", GOOD)
    store.store("crm", "1", GOOD)
    assert (store.names(), store.versions("billing")) == (["billing", "crm"], ["1.0.0", "1.0.1+b"])
    place = store.find("billing", "1.0.0")
    assert (place / "data" / "a.txt").read_bytes() == b"a"
    assert (place / "bin" / "run").stat().st_mode & 0o777 == 0o755
    assert (place / "data" / "a.txt").stat().st_mode & 0o777 == 0o644
    assert sorted(entry.name for entry in (tmp_path / "modules").iterdir()) == ["billing", "crm"]
    assert store.statistics().stored_bytes == 3 * len(b"#!/bin/sh\na")


def test_what_is_packed_can_be_stored_again(store):
    store.store("billing", "1", GOOD)
    packed = io.BytesIO()
    store.pack(store.find("billing", "1"), packed)
    store.store("billing", "2", packed.getvalue())
    again = io.BytesIO()
    store.pack(store.find("billing", "2"), again)
    assert again.getvalue() == packed.getvalue()


def test_a_version_does_not_change(store):
    store.store("billing", "1", GOOD)
    with pytest.raises(Conflict) as caught:
        store.store("billing", "1", archive(member("other")))
    assert caught.value.code == "MODULE_EXISTS"
    assert not (store.find("billing", "1") / "other").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a b", "é", "a\0", ".incoming-x", "x" * 200])
def test_what_is_no_name_reaches_no_file(store, name):
    for act in (
        lambda: store.versions(name),
        lambda: store.find(name, "1"),
        lambda: store.store(name, "1", GOOD),
    ):
        with pytest.raises(Invalid):
            act()


def test_what_is_not_there_is_not_found(store, tmp_path):
    with pytest.raises(NotFound):
        store.find("billing", "1")
    (tmp_path / "modules" / "billing").mkdir(parents=True)
    (tmp_path / "modules" / "billing" / "1").symlink_to("/etc")
    with pytest.raises(NotFound):
        store.find("billing", "1")


BAD = {
    "nothing": b"",
    "no tar": b"PK\x03\x04" + b"x" * 2000,
    "cut off": GOOD[:1100],
    "a compressed one": b"\x1f\x8b\x08\x00" + b"\0" * 600,
    "up": archive(member("../x")),
    "up later": archive(member("a/../../x")),
    "absolute": archive(member("/etc/x")),
    "a link": archive(member("a", kind=tarfile.SYMTYPE, link="/etc/passwd")),
    "a hard link": archive(member("b"), member("a", kind=tarfile.LNKTYPE, link="b")),
    "a device": archive(member("a", kind=tarfile.CHRTYPE)),
    "a pipe": archive(member("a", kind=tarfile.FIFOTYPE)),
    "twice": archive(member("a"), member("A")),
    "a file as directory": archive(member("a"), member("a/b")),
    "too deep": archive(member("a/b/c/d/e/f")),
    "too many": archive(*[member(f"n{number}") for number in range(30)]),
    "too large": archive(*[member(f"n{number}", b"x" * 9000) for number in range(10)]),
    "a control character": archive(member("a\nb")),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_archive_leaves_nothing(store, tmp_path, content):
    with pytest.raises(Invalid) as caught:
        store.store("billing", "1", content)
    assert caught.value.code == "INVALID_ARCHIVE"
    assert store.versions("billing") == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert store.statistics().refused == 1


@given(st.binary(max_size=1500), st.integers(0, len(GOOD) - 1))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_anything_but_our_errors(tmp_path_factory, noise, at):
    store = ModuleStore(tmp_path_factory.mktemp("m"), LIMITS)
    for number, content in enumerate((noise, GOOD[:at] + noise + GOOD[at + len(noise) :])):
        try:
            store.store("billing", str(number), content)
        except FluxbeeError as error:
            assert error.code == "INVALID_ARCHIVE"  # noqa: PT017 - it may also be stored


def test_a_full_disk_is_told_before_anything_is_written(tmp_path):
    def full():
        raise Unavailable("full", code="DISK_FULL")

    store = ModuleStore(tmp_path / "modules", LIMITS, check_room=full)
    with pytest.raises(Unavailable):
        store.store("billing", "1", GOOD)
    assert not (tmp_path / "modules").exists()
