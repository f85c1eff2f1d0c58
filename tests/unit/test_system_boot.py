from __future__ import annotations

from pathlib import Path

from appliance.system.boot import BOOT_ID_FILE, boot_id


def test_the_kernel_tells_one_id_per_boot() -> None:
    assert boot_id() == boot_id() == BOOT_ID_FILE.read_text().strip()


def test_a_kernel_that_does_not_tell_makes_every_answer_different(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert boot_id(missing) != boot_id(missing)
    assert boot_id(missing).startswith("unknown-")


def test_an_empty_or_garbled_file_is_not_an_id(tmp_path: Path) -> None:
    source = tmp_path / "boot_id"
    for content in (b"", b" \n", b"\xff\xfe"):
        source.write_bytes(content)
        assert boot_id(source) != boot_id(source)


def test_surrounding_white_space_is_not_part_of_the_id(tmp_path: Path) -> None:
    source = tmp_path / "boot_id"
    source.write_text("  abc \n")
    assert boot_id(source) == "abc"
