"""Version counters: on disk before use, never twice, shared by routes and VPN rules."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from appliance.services.admin.counters import MAX_VERSION, VersionCounters, next_version
from appliance.wire.errors import Conflict, Invalid


@given(st.integers(0, 10**12), st.none() | st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_next_number_is_always_greater(current, requested, at_least):
    if requested is not None and requested <= current:
        with pytest.raises(Conflict, match=rf"\(current={current}\)") as caught:
            next_version(current, requested, at_least=at_least)
        assert caught.value.code == "VERSION_MISMATCH"
        return
    number = next_version(current, requested, at_least=at_least)
    assert number > current
    assert requested is None or number == requested


def test_numbers_survive_and_files_hold_plain_integers(tmp_path):
    async def body():
        counters = VersionCounters(tmp_path / "config_versions")
        assert await counters.current("routes") == 0
        assert await counters.take("routes") == 1
        assert await counters.take("vpn") == 2
        assert await counters.take("storage") == 1
        assert await counters.take("hives", 9) == 9
        assert await counters.raise_to("routes", 2) == 2
        assert await counters.raise_to("routes", 7) == 7
        assert (tmp_path / "config_versions" / "routes-vpns.txt").read_text().strip() == "7"
        assert (tmp_path / "config_versions" / "general.txt").read_text().strip() == "9"
        again = VersionCounters(tmp_path / "config_versions")
        assert await again.take("vpn", at_least=20) == 21
        with pytest.raises(Conflict):
            await again.take("vpn", 21)
        assert counters.bytes_written > 0

    trio.run(body)


@pytest.mark.parametrize("content", [b"", b"x", b"\xff\xfe", b"-3"])
def test_a_file_without_a_number_counts_as_zero(tmp_path, content):
    (tmp_path / "storage.txt").write_bytes(content)
    assert trio.run(VersionCounters(tmp_path).take, "storage") == 1


def test_no_number_is_so_high_that_none_can_follow(tmp_path):
    assert next_version(3, MAX_VERSION) == MAX_VERSION
    with pytest.raises(Invalid, match="version must be at most"):
        next_version(3, MAX_VERSION + 1)
    (tmp_path / "storage.txt").write_text("18446744073709551617")
    counters = VersionCounters(tmp_path)
    assert trio.run(counters.take, "storage") == MAX_VERSION + 1
    assert trio.run(counters.take, "storage") == MAX_VERSION + 2
