from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.sdk.secrets import (
    REDACTED,
    SecretDescriptor,
    build_secret_record,
    ensure_secret_dir,
    load_secrets,
    redact_fields,
    redact_secrets,
    restore_redacted,
    save_secrets,
    secret_path,
    split_secrets,
)
from appliance.wire.errors import Damaged, NotFound

NAME = "AI.chat@hive1"
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
RECORD = build_secret_record(
    {"openai_api_key": "sk-1"}, updated_by_ilk="ilk:1", updated_by_label="admin", trace_id="t", now=NOW
)


def test_the_file_has_the_documented_shape_and_mode(tmp_path: Path) -> None:
    directory = ensure_secret_dir(NAME, tmp_path)
    path = secret_path(NAME, tmp_path)
    assert path == directory / "secrets.json" == tmp_path / "AI" / NAME / "secrets.json"
    written = save_secrets(path, RECORD)
    assert path.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert written == path.stat().st_size
    text = path.read_text()
    assert "\n  " in text
    assert json.loads(text) == {
        "schema_version": 1,
        "updated_at": "2026-03-04T05:06:07+00:00",
        "updated_by_ilk": "ilk:1",
        "updated_by_label": "admin",
        "trace_id": "t",
        "secrets": {"openai_api_key": "sk-1"},
    }
    assert load_secrets(path) == RECORD


def test_an_open_directory_is_closed(tmp_path: Path) -> None:
    (tmp_path / "AI" / NAME).mkdir(parents=True, mode=0o755)
    assert ensure_secret_dir(NAME, tmp_path).stat().st_mode & 0o777 == 0o700


def test_optional_parts_are_left_out(tmp_path: Path) -> None:
    save_secrets(tmp_path / "secrets.json", build_secret_record({}, now=NOW))
    assert set(json.loads((tmp_path / "secrets.json").read_text())) == {
        "schema_version",
        "updated_at",
        "secrets",
    }


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_secrets(tmp_path / "secrets.json")
    with pytest.raises(NotFound):
        save_secrets(tmp_path / "none" / "secrets.json", RECORD)


@pytest.mark.parametrize(
    "content",
    [b"", b"sk-secret", b'{"secrets":{"k":"sk-secret"}}', b"\xff", b'{"updated_at":"x","secrets":{"k":1}}'],
)
def test_a_damaged_file_is_said_without_its_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secrets.json"
    path.write_bytes(content)
    with pytest.raises(Damaged) as caught:
        load_secrets(path)
    assert caught.value.code == "SECRETS_DAMAGED"
    assert "sk-secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_later_schema_is_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text('{"schema_version":2,"updated_at":"x","secrets":{}}')
    with pytest.raises(Damaged, match="schema 2"):
        load_secrets(path)


def test_values_never_show() -> None:
    assert "sk-1" not in repr(RECORD)
    assert RECORD.redacted().secrets == {"openai_api_key": REDACTED}
    assert redact_secrets({"a": "b"}) == {"a": "***REDACTED***"}


CONFIG = {"openai": {"api_key": "sk-1", "model": "m"}, "token": "t", "list": [1]}
FIELDS = ("openai.api_key", "token")
DESCRIPTORS = [
    SecretDescriptor(field="openai.api_key", storage_key="key"),
    SecretDescriptor(field="token", storage_key="token"),
    SecretDescriptor(field="not.there", storage_key="none"),
]


def test_redacting_fields_leaves_the_original_alone() -> None:
    shown = redact_fields(CONFIG, (*FIELDS, "not.there", "list.x", "token.deeper"))
    assert shown == {"openai": {"api_key": REDACTED, "model": "m"}, "token": REDACTED, "list": [1]}
    assert CONFIG["token"] == "t"
    assert redact_fields({"token": None}, FIELDS) == {"token": None}


def test_splitting_takes_the_secrets_out() -> None:
    rest, found = split_secrets(CONFIG, DESCRIPTORS)
    assert rest == {"openai": {"model": "m"}, "list": [1]}
    assert found == {"key": "sk-1", "token": "t"}
    assert CONFIG["openai"] == {"api_key": "sk-1", "model": "m"}


def test_a_placeholder_is_no_new_value() -> None:
    rest, found = split_secrets(redact_fields(CONFIG, FIELDS), DESCRIPTORS)
    assert rest == {"openai": {"model": "m"}, "list": [1]}
    assert found == {}


def test_what_was_shown_can_come_back() -> None:
    assert restore_redacted(redact_fields(CONFIG, FIELDS), CONFIG) == CONFIG
    assert restore_redacted({"new": REDACTED, "a": {"b": REDACTED}}, {"a": "text"}) == {"a": {}}
