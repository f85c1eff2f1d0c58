"""Bundles: what a zip may claim, and what it gets."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.supervise.bundle import stage_inline, unpack_bundle
from appliance.supervise.package import validate_package
from appliance.supervise.tree import TreeLimits
from appliance.wire.errors import FluxbeeError, Invalid
from tests.unit.packages_kit import START, describe, make_zip, snapshot

GOOD = {"package.json": describe(), "bin/start.sh": START}
SMALL = TreeLimits(max_bytes=200_000, max_entries=50, max_depth=4)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    path = tmp_path / "staging"
    path.mkdir()
    return path


def refused(bundle: Path, staging: Path, limits: TreeLimits = SMALL) -> Invalid:
    with pytest.raises(Invalid) as caught:
        unpack_bundle(bundle, staging, limits)
    return caught.value


def one_entry(path: Path, name: str, mode: int = 0o100644, content: bytes = b"x") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for known, text in GOOD.items():
            archive.writestr(f"ai.greeter/{known}", text)
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = mode << 16
        archive.writestr(info, content)
    return path


def test_a_bundle_is_unpacked_with_its_execute_bits(tmp_path, staging):
    root = unpack_bundle(make_zip(tmp_path / "b.zip", {**GOOD, "data/x.txt": "x"}), staging, SMALL)
    assert root == staging / "ai.greeter"
    assert snapshot(root)["data/x.txt"] == b"x"
    assert validate_package(root).name == "ai.greeter"
    assert (root / "bin/start.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "data/x.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "ai.greeter/../../evil",
        "/etc/evil",
        "ai.greeter//evil",
        "ai.greeter/./evil",
        "ai.greeter\\evil",
        "C:/evil",
        "ai.greeter/a\nb",
        "ai.greeter/a\x00b",
        "ai.greeter/" + "a/" * 10 + "b",
        "ai.greeter/" + "n" * 300,
    ],
)
def test_names_that_could_lead_anywhere_are_refused(tmp_path, staging, name):
    placeholder = "Q" * len(name.encode())  # zipfile itself would not write some of these
    bundle = one_entry(tmp_path / "b.zip", placeholder)
    bundle.write_bytes(bundle.read_bytes().replace(placeholder.encode(), name.encode()))
    assert refused(bundle, staging).code == "INVALID_REQUEST"
    assert not list(staging.iterdir())
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("mode", [0o120777, 0o060644, 0o020644, 0o010644, 0o140644, 0o040755])
def test_links_and_devices_are_refused(tmp_path, staging, mode):
    bundle = one_entry(tmp_path / "b.zip", "ai.greeter/odd", mode, b"/etc/passwd")
    assert refused(bundle, staging).code == "INVALID_REQUEST"
    assert not list(staging.iterdir())


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "name",
    [
        "ai.greeter/package.json",
        "ai.greeter/Package.json",
        "ai.greeter/BIN/other",
        "ai.greeter/bin",
        "ai.greeter/package.json/x",
        "AI.greeter/x",
    ],
)
def test_names_that_a_file_system_could_confuse_are_refused(tmp_path, staging, name):
    assert refused(one_entry(tmp_path / "b.zip", name), staging).code == "INVALID_REQUEST"


def test_two_spellings_of_one_letter_are_one_name(tmp_path, staging):
    bundle = make_zip(tmp_path / "b.zip", {**GOOD, "\u00e9": "1", "e\u0301": "2"})
    assert refused(bundle, staging).code == "INVALID_REQUEST"


@pytest.mark.parametrize(
    ("files", "root"),
    [
        ({"package.json": describe()}, ""),
        ({"other.txt": "x"}, "ai.greeter"),
        ({"deep/package.json": "{}"}, "a"),
    ],
)
def test_a_bundle_has_one_root_with_a_description(tmp_path, staging, files, root):
    assert refused(make_zip(tmp_path / "b.zip", files, root=root), staging).code == "INVALID_PACKAGE_LAYOUT"
    assert not list(staging.iterdir())


def test_two_roots_and_no_entries_are_no_package(tmp_path, staging):
    assert refused(one_entry(tmp_path / "b.zip", "other/x"), staging).code == "INVALID_PACKAGE_LAYOUT"
    with zipfile.ZipFile(tmp_path / "e.zip", "w"):
        pass
    assert refused(tmp_path / "e.zip", staging).code == "INVALID_PACKAGE_LAYOUT"


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"PK\x03\x04" + b"0" * 100, b"PK\x05\x06", b"PK\x05\x06" * 10]
)
def test_what_is_no_zip_is_told(tmp_path, staging, data):
    (tmp_path / "b.zip").write_bytes(data)
    assert refused(tmp_path / "b.zip", staging).code == "INVALID_ZIP"


def test_truncated_bundles_are_refused_wherever_they_end(tmp_path, staging):
    whole = make_zip(tmp_path / "b.zip", GOOD).read_bytes()
    for cut in range(0, len(whole), 7):
        (tmp_path / "c.zip").write_bytes(whole[:cut])
        assert refused(tmp_path / "c.zip", staging).code == "INVALID_ZIP"


def test_a_hole_in_the_middle_is_refused(tmp_path):
    whole = make_zip(tmp_path / "b.zip", GOOD).read_bytes()
    for start in range(0, len(whole) - 60, 11):
        (tmp_path / "c.zip").write_bytes(whole[:start] + whole[start + 40 :])
        staging = tmp_path / f"s{start}"
        staging.mkdir()
        assert refused(tmp_path / "c.zip", staging).code in ("INVALID_ZIP", "INVALID_REQUEST")


def test_a_wrong_checksum_is_found(tmp_path, staging):
    bundle = tmp_path / "b.zip"
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("ai.greeter/package.json", describe(description="AAAA"))
    bundle.write_bytes(bundle.read_bytes().replace(b"AAAA", b"AAAB"))
    assert refused(bundle, staging).code == "INVALID_ZIP"


def patched_size(bundle: Path, size: int, *, central_only: bool) -> None:
    """Make the last entry claim another unpacked size."""
    raw = bytearray(bundle.read_bytes())
    central = raw.rfind(b"PK\x01\x02")
    struct.pack_into("<L", raw, central + 24, size)
    if not central_only:
        struct.pack_into("<L", raw, raw.rfind(b"PK\x03\x04") + 22, size)
    bundle.write_bytes(raw)


@pytest.mark.parametrize("central_only", [True, False])
def test_a_claim_of_four_gigabytes_is_refused_before_anything_is_written(tmp_path, staging, central_only):
    bundle = make_zip(tmp_path / "b.zip", GOOD)
    patched_size(bundle, 0xFFFF_FFF0, central_only=central_only)
    assert "claims" in str(refused(bundle, staging))
    assert not list(staging.iterdir())


@pytest.mark.parametrize("claim", [0, 5, 1000])
def test_what_unpacks_to_something_else_than_it_claims_is_refused(tmp_path, staging, claim):
    bundle = make_zip(tmp_path / "b.zip", {**GOOD, "z.txt": "z" * 500})
    patched_size(bundle, claim, central_only=False)
    assert refused(bundle, staging).code == "INVALID_ZIP"


def test_a_bomb_is_refused_by_its_ratio(tmp_path, staging):
    bundle = make_zip(tmp_path / "b.zip", {**GOOD, "zeros": b"\0" * (8 << 20)})
    limits = TreeLimits(ratio=200)
    assert "times as large" in str(refused(bundle, staging, limits))
    unpack_bundle(bundle, staging, TreeLimits(ratio=5000))


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({f"f{i}": "" for i in range(60)}, SMALL),
        ({"big": "".join(map(str, range(40_000)))}, TreeLimits(max_bytes=100_000)),
    ],
)
def test_limits_are_kept(tmp_path, staging, files, limits):
    assert refused(make_zip(tmp_path / "b.zip", {**GOOD, **files}), staging, limits).code == "INVALID_REQUEST"


def test_a_directory_that_would_fill_the_memory_is_not_read(tmp_path, staging):
    bundle = make_zip(tmp_path / "b.zip", GOOD)
    raw = bytearray(bundle.read_bytes())
    struct.pack_into("<L", raw, raw.rfind(b"PK\x05\x06") + 12, 50 * 256 + 1)
    bundle.write_bytes(raw)
    assert "directory is too large" in str(refused(bundle, staging))


def test_other_methods_and_encryption_are_refused(tmp_path, staging):
    with zipfile.ZipFile(tmp_path / "l.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("ai.greeter/package.json", describe())
    assert "method" in str(refused(tmp_path / "l.zip", staging))
    raw = bytearray(make_zip(tmp_path / "b.zip", GOOD).read_bytes())
    struct.pack_into("<H", raw, raw.rfind(b"PK\x01\x02") + 8, 1)
    (tmp_path / "b.zip").write_bytes(raw)
    assert "encrypted" in str(refused(tmp_path / "b.zip", staging))


names = st.text(st.sampled_from("ab./\\A\x00é\n: "), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(name=names, mode=st.sampled_from([0, 0o100644, 0o100755, 0o120777, 0o040755]))
def test_whatever_the_name_nothing_leaves_the_staging_directory(tmp_path_factory, name, mode):
    place = tmp_path_factory.mktemp("zip")
    staging = place / "staging"
    staging.mkdir()
    one_entry(place / "b.zip", f"ai.greeter/{name}", mode)
    try:
        root = unpack_bundle(place / "b.zip", staging, SMALL)
    except FluxbeeError:
        root = None
    assert sorted(path.name for path in place.iterdir()) == ["b.zip", "staging"]
    assert all(path.is_dir() or path.is_file() for path in staging.rglob("*"))
    assert not any(path.is_symlink() for path in staging.rglob("*"))
    if root is not None:
        assert (root / "package.json").is_file()


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 2000), value=st.integers(0, 255))
def test_a_spoilt_byte_is_refused_or_harmless(tmp_path_factory, at, value):
    place = tmp_path_factory.mktemp("zip")
    staging = place / "staging"
    staging.mkdir()
    raw = bytearray(make_zip(place / "b.zip", GOOD).read_bytes())
    raw[at % len(raw)] = value
    (place / "b.zip").write_bytes(raw)
    code = "INVALID_ZIP"
    try:
        unpack_bundle(place / "b.zip", staging, SMALL)
    except FluxbeeError as error:
        code = error.code
    assert code in ("INVALID_ZIP", "INVALID_REQUEST", "INVALID_PACKAGE_LAYOUT")
    assert sorted(path.name for path in place.iterdir()) == ["b.zip", "staging"]


# --- inline ------------------------------------------------------------------------------------------------


def test_inline_files_become_a_package_that_can_be_started(staging):
    root = stage_inline({**GOOD, "config/default-config.json": "{}"}, staging, SMALL)
    assert validate_package(root).files == 3
    assert (root / "bin/start.sh").stat().st_mode & 0o111


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"../x": "x"},
        {"/x": "x"},
        {"a/../../x": "x"},
        {"a": "x", "a/b": "x"},
        {"a": "x", "A": "x"},
        {"a": 5},
        {"a": None},
        {"big": "x" * 200_001},
        {f"f{i}": "" for i in range(51)},
    ],
)
def test_inline_files_that_may_not_be_are_refused(staging, files):
    with pytest.raises(Invalid) as caught:
        stage_inline(files, staging, SMALL)
    assert caught.value.code == "INVALID_REQUEST"
    assert not list(staging.iterdir())
