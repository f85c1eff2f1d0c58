"""The hive's key: 32 secret bytes in one file that nobody else may read."""

from __future__ import annotations

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from appliance.link.keys import hive_key_file, load_hive_key
from appliance.wire.errors import Damaged, FluxbeeError


def test_the_first_call_makes_it_and_later_ones_read_it(tmp_path):
    key = load_hive_key(tmp_path / "state")
    file = hive_key_file(tmp_path / "state")
    assert file.read_bytes() == key.secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_hive_key(tmp_path / "state") == key


def test_two_boxes_have_two_keys(tmp_path):
    assert load_hive_key(tmp_path / "a").secret != load_hive_key(tmp_path / "b").secret


def test_the_public_half_belongs_to_the_secret_one(tmp_path):
    # RFC 7748 §6.1, Alice.
    secret = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df1f2df92fe9b6a1b16d1c4cb7e8b1f5")
    tmp_path.joinpath("hive.key").write_bytes(secret)
    assert (
        load_hive_key(tmp_path).public
        == X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    )


def test_a_box_without_a_name_is_called_after_its_public_key(tmp_path):
    key = load_hive_key(tmp_path)
    assert key.unclaimed_id == f"unclaimed-{key.public.hex()[:8]}"


def test_the_secret_is_never_shown(tmp_path):
    key = load_hive_key(tmp_path)
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)
    assert key.public.hex() in repr(key)
    assert key.secret.hex() not in str([key])


@pytest.mark.parametrize("data", [b"", b"short", bytes(31), bytes(33), b"garbage" * 100])
def test_a_file_of_another_size_is_damaged_named_and_kept(tmp_path, data):
    file = hive_key_file(tmp_path)
    file.write_bytes(data)
    with pytest.raises(Damaged) as caught:
        load_hive_key(tmp_path)
    assert str(file) in str(caught.value)
    assert f"{len(data)} bytes" in str(caught.value)
    assert "backup" in caught.value.remedy
    assert file.read_bytes() == data


def test_things_in_its_place_are_errors_of_ours(tmp_path):
    (tmp_path / "dir" / "hive.key").mkdir(parents=True)
    (tmp_path / "file").write_text("in the way")
    for state in (tmp_path / "dir", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FluxbeeError) as caught:
            load_hive_key(state)
        assert str(state) in str(caught.value)
        assert caught.value.remedy
