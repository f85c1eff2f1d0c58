"""Which taps may run, and what a source must look like (CN-23, CN-26, DF-18)."""

from __future__ import annotations

import msgspec
import pytest

from appliance.wire.errors import FluxbeeError, Invalid, Refused, Unavailable
from appliance.world.connectors import NewTap
from appliance.world.connectors.taplist import (
    CONFIG_OWNER,
    FLUX_OWNER,
    TapRow,
    checked_program,
    checked_tap,
    tap_rows,
    tap_secrets,
)

WANTED = {
    "tap_name": "tap-csv",
    "namespace": "plant",
    "entity_key_field": "id",
    "config_json": '{"files":[]}',
    "poll_interval_secs": 3600,
}
TAPS = {"tap-csv": "/usr/bin/tap-csv"}


def wanted(**changes: object) -> NewTap:
    return msgspec.convert({**WANTED, **changes}, NewTap)


def test_rows_are_sorted_and_labelled():
    """AT-IN-22."""
    assert tap_rows({"tap-google-ads": "/g", "csv": "/c"}) == [
        TapRow("csv", "Csv"),
        TapRow("tap-google-ads", "Google ads"),
    ]
    assert tap_rows({}) == []


def test_a_source_is_checked():
    source = checked_tap(wanted(), TAPS, 5)
    assert (source.tap_name, source.namespace, source.entity_key_field) == ("tap-csv", "plant", "id")
    assert (source.poll_interval_s, source.created_at_ms) == (3600.0, 5)


@pytest.mark.parametrize("name", ["tap-json", "", "/usr/bin/tap-csv", "tap-csv=/bin/sh", "x" * 10_000])
def test_only_listed_taps(name):
    with pytest.raises(Refused, match=r"world\.taps") as caught:
        checked_tap(wanted(tap_name=name), TAPS, 5)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": ""},
        {"namespace": "a/b"},
        {"namespace": "a\nb"},
        {"poll_interval_secs": 0.5},
        {"poll_interval_secs": 1e300},
        {"entity_key_field": "x" * 201},
    ],
)
def test_values_that_are_wrong(changes):
    with pytest.raises(Invalid):
        checked_tap(wanted(**changes), TAPS, 5)


def test_what_is_kept_sealed():
    """CN-54."""
    assert tap_secrets(wanted()) == {CONFIG_OWNER: '{"files":[]}'}
    both = tap_secrets(wanted(flux_namespace_token="t"))
    assert both[FLUX_OWNER] == "t"


@pytest.mark.parametrize(
    "changes",
    [
        {"config_json": ""},
        {"config_json": "[]"},
        {"config_json": "{" * 5000},
        {"config_json": '{"a":"\ud800"}'},
        {"config_json": '{"a":"' + "x" * 70_000 + '"}'},
        {"flux_namespace_token": "a\r\nb"},
    ],
)
def test_configurations_that_are_none(changes):
    body = NewTap(**{**WANTED, **changes})
    with pytest.raises(Invalid):
        tap_secrets(body)


def test_a_program_is_looked_at_before_each_run(tmp_path):
    program = tmp_path / "tap"
    taps = {"tap": str(program)}

    def refused(kind: type[FluxbeeError], words: str) -> None:
        with pytest.raises(kind, match=words):
            checked_program("tap", taps)

    refused(Unavailable, "No such file")
    program.mkdir()
    refused(Unavailable, "no program")
    program.rmdir()
    program.write_text("#!/bin/true\n")
    program.chmod(0o644)
    refused(Unavailable, "no program")
    program.chmod(0o757)
    refused(Refused, "by anybody")
    program.chmod(0o755)
    assert checked_program("tap", taps) == str(program)
    with pytest.raises(Refused, match=r"world\.taps any more"):
        checked_program("other", taps)
