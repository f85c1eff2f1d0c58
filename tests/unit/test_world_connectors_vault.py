"""Sealed secrets: bound to their place and their key (AT-IN-7)."""

from __future__ import annotations

import base64
import secrets
import stat

import msgspec
import pytest

from appliance.wire.errors import Damaged
from appliance.world.connectors.vault import KeyRing, key_ring

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
PLACE = {"owner": "ns_1", "connector": "github", "field": "access"}


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_a_secret_opens_in_its_place_only():
    ring = KeyRing([NEW])
    sealed = ring.seal("ghp_x", **PLACE)
    assert ring.unseal(sealed, **PLACE) == "ghp_x"
    assert b"ghp_x" not in msgspec.json.encode(sealed)
    for other in (
        {"owner": "ns_2"},
        {"connector": "gmail"},
        {"field": "refresh"},
        {"owner": "ns_1gi", "connector": "thub"},
    ):
        with pytest.raises(Damaged):
            ring.unseal(sealed, **{**PLACE, **other})


def test_tampering_is_found_and_nonces_differ():
    ring = KeyRing([NEW])
    sealed = ring.seal("x", **PLACE)
    assert sealed.nonce != ring.seal("x", **PLACE).nonce
    for change in (
        {"data": bytes([sealed.data[0] ^ 1]) + sealed.data[1:]},
        {"nonce": bytes(12)},
        {"data": sealed.data[:-1]},
        {"data": b""},
        {"nonce": b""},
    ):
        with pytest.raises(Damaged):
            ring.unseal(msgspec.structs.replace(sealed, **change), **PLACE)


def test_an_older_key_on_the_ring_opens_and_a_missing_one_is_named():
    sealed = KeyRing([OLD]).seal("x", **PLACE)
    assert KeyRing([NEW, OLD]).unseal(sealed, **PLACE) == "x"
    with pytest.raises(Damaged) as caught:
        KeyRing([NEW]).unseal(sealed, **PLACE)
    assert caught.value.code == "CREDENTIAL_KEY_MISSING"
    assert KeyRing([NEW, OLD]).current == KeyRing([NEW]).current != KeyRing([OLD]).current


def test_a_key_is_made_once_and_readable_by_its_owner_only(tmp_path):
    path = tmp_path / "state" / "keys"
    first = key_ring(None, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key_ring(None, path).current == first.current
    path.write_text(f"{text(NEW)}\n{path.read_text()}")
    rotated = key_ring(None, path)
    assert rotated.unseal(first.seal("x", **PLACE), **PLACE) == "x"
    assert rotated.current == KeyRing([NEW]).current


def test_a_key_of_the_settings_goes_first_and_makes_no_file(tmp_path):
    path = tmp_path / "keys"
    assert key_ring(text(NEW), path).current == KeyRing([NEW]).current
    assert not path.exists()
    path.write_text(text(OLD))
    ring = key_ring(text(NEW), path)
    assert ring.unseal(KeyRing([OLD]).seal("x", **PLACE), **PLACE) == "x"


@pytest.mark.parametrize("content", [b"", b"short", b"\xff\xfe", base64.b64encode(b"x" * 31), b"!" * 44])
def test_a_file_that_holds_no_keys_is_not_replaced(tmp_path, content):
    path = tmp_path / "keys"
    path.write_bytes(content)
    with pytest.raises(Damaged) as caught:
        key_ring(None, path)
    assert path.read_bytes() == content
    assert "!" * 44 not in str(caught.value)


def test_rings_without_good_keys():
    for keys in ([], [b"short"]):
        with pytest.raises(ValueError):
            KeyRing(keys)
