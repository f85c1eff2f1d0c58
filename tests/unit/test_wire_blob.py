from __future__ import annotations

import hashlib
import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire import blob
from appliance.wire.errors import Busy, FluxbeeError, Invalid, NotFound, Unavailable, Unreachable

REF = {
    "type": "blob_ref",
    "blob_name": "invoice_a1b2c3d4e5f6a7b8.png",
    "size": 5242880,
    "mime": "image/png",
    "filename_original": "Invoice.png",
    "spool_day": "2026-02-24",
}


def test_the_worked_example_of_the_specification() -> None:
    hash16 = blob.content_hash(b"hello-blob")
    name = blob.blob_name_of("Bill   March@@2026.PNG", hash16)
    assert name == "Bill_March_2026_57a256c65db5af18.png"
    assert blob.blob_prefix(name) == "57"
    assert blob.guess_mime("Bill   March@@2026.PNG") == "image/png"


@pytest.mark.parametrize(
    ("original", "stem", "extension"),
    [
        ("", "blob", "bin"),
        ("   ", "blob", "bin"),
        ("noext", "noext", "bin"),
        (".bashrc", ".bashrc", "bin"),
        ("a.tar.gz", "a.tar", "gz"),
        ("dir/sub/report.TXT", "report", "txt"),
        ("dir/", "dir", "bin"),
        ("..", "blob", "bin"),
        ("a/..", "blob", "bin"),
        ("a/./.", "a", "bin"),
        ("x.", "x", "bin"),
        ("__a__b__.c", "a_b", "c"),
        ("@@@.png", "blob", "png"),
        ("ünïcode.é", "n_code", "bin"),
        ("x.superlongextension", "x", "superlonge"),
        ("x.p-g", "x", "bin"),
        (r"C:\docs\x.doc", "C_docs_x", "doc"),
        ("s" * 300 + ".txt", "s" * 128, "txt"),
    ],
)
def test_sanitizing(original: str, stem: str, extension: str) -> None:
    assert blob.sanitize_name(original) == (stem, extension)


def test_the_stem_limit_is_a_parameter() -> None:
    assert blob.sanitize_name("abcdef.txt", name_max_chars=3) == ("abc", "txt")


def test_a_double_dot_inside_cannot_be_stored() -> None:
    with pytest.raises(Invalid) as caught:
        blob.blob_name_of("a..b.txt", "0" * 16)
    assert caught.value.code == blob.BLOB_INVALID_NAME
    assert str(caught.value).startswith("BLOB_INVALID_NAME")


@given(st.text(max_size=300), st.binary(max_size=20))
def test_whatever_comes_in_the_name_is_valid_or_refused(original: str, data: bytes) -> None:
    hash16 = blob.content_hash(data)
    try:
        name = blob.blob_name_of(original, hash16)
    except Invalid:
        assert ".." in original
        return
    stem, extension = blob.sanitize_name(original)
    assert blob.parse_blob_name(name) == (stem, hash16, extension)
    assert str(blob.parse_blob_name(name)) == name
    assert blob.blob_prefix(name) == hash16[:2]
    assert "/" not in name


@given(st.text(alphabet=string.ascii_letters + string.digits + "._-/\\\n\0@", max_size=60))
def test_an_unparsable_name_has_prefix_00_and_is_refused(name: str) -> None:
    try:
        parsed = blob.parse_blob_name(name)
    except Invalid:
        assert blob.blob_prefix(name) == "00"
    else:
        assert blob.blob_prefix(name) == parsed.hash16[:2]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "x.png",
        "_57a256c65db5af18.png",
        "x_57a256c65db5af1.png",
        "x_57a256c65db5af189.png",
        "x_57a256c65db5af1g.png",
        "x_57a256c65db5af18.PNG",
        "x_57a256c65db5af18.",
        "x_57a256c65db5af18.elevenchars",
        "x_57a256c65db5af18.p-g",
        "a/x_57a256c65db5af18.png",
        "a\\x_57a256c65db5af18.png",
        "a..x_57a256c65db5af18.png",
        "x_57a256c65db5af18.png\n",
        "é_57a256c65db5af18.png",
        "s" * 129 + "_57a256c65db5af18.png",
    ],
)
def test_malformed_names(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        blob.validate_blob_name(name)
    assert caught.value.code == blob.BLOB_INVALID_NAME


def test_the_hash_of_a_name_may_be_upper_case() -> None:
    blob.validate_blob_name("x_57A256C65DB5AF18.png")
    assert blob.blob_prefix("x_AB" + "0" * 14 + ".png") == "AB"


def test_the_hash_is_the_head_of_sha256() -> None:
    assert blob.content_hash(b"abc") == hashlib.sha256(b"abc").hexdigest()[:16]


@pytest.mark.parametrize(
    ("original", "given", "mime"),
    [
        ("x.png", "application/x-mine", "application/x-mine"),
        ("x.png", " ", "image/png"),
        ("x.png", None, "image/png"),
        ("content.txt", None, "text/plain"),
        ("x.MD", None, "text/markdown"),
        ("x", None, "application/octet-stream"),
        ("x.unknownext", "", "application/octet-stream"),
        ("http://host/x.pdf", None, "application/pdf"),
    ],
)
def test_mime(original: str, given: str | None, mime: str) -> None:
    assert blob.guess_mime(original, given) == mime


def test_a_reference_is_made_and_encoded_in_the_reference_order() -> None:
    ref = blob.make_blob_ref(
        blob_name="invoice_a1b2c3d4e5f6a7b8.png",
        size_bytes=5242880,
        original=" Invoice.png ",
        mime=None,
        wall_s=1771891200.0,
    )
    assert msgspec.json.encode(ref) == json.dumps(REF, separators=(",", ":")).encode()
    ref.validate()


def test_a_blank_original_reads_blob_bin() -> None:
    ref = blob.make_blob_ref(
        blob_name="blob_a1b2c3d4e5f6a7b8.bin", size_bytes=0, original="  ", mime=None, wall_s=0.0
    )
    assert (ref.filename_original, ref.mime, ref.spool_day) == (
        "blob.bin",
        "application/octet-stream",
        "1970-01-01",
    )


def test_a_good_reference_is_read_and_unknown_keys_are_ignored() -> None:
    assert blob.blob_ref_from({**REF, "extra": 1}).size == 5242880


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"type": "blob"}, blob.BLOB_INVALID_REF),
        ({"blob_name": "nope"}, blob.BLOB_INVALID_NAME),
        ({"size": -1}, blob.BLOB_INVALID_REF),
        ({"size": 1 << 64}, blob.BLOB_INVALID_REF),
        ({"size": "5"}, blob.BLOB_INVALID_REF),
        ({"size": True}, blob.BLOB_INVALID_REF),
        ({"mime": " "}, blob.BLOB_INVALID_REF),
        ({"filename_original": ""}, blob.BLOB_INVALID_REF),
        ({"spool_day": "2026-2-24"}, blob.BLOB_INVALID_REF),
        ({"spool_day": "2026-02-24\n"}, blob.BLOB_INVALID_REF),
        ({"spool_day": "２０26-02-24"}, blob.BLOB_INVALID_REF),
    ],
)
def test_a_bad_reference_is_refused(change: dict[str, object], code: str) -> None:
    with pytest.raises(Invalid) as caught:
        blob.blob_ref_from({**REF, **change})
    assert caught.value.code == code


@pytest.mark.parametrize("key", list(REF))
def test_every_key_of_a_reference_is_required(key: str) -> None:
    with pytest.raises(Invalid):
        blob.blob_ref_from({k: v for k, v in REF.items() if k != key})


def test_the_calendar_is_not_checked() -> None:
    assert blob.blob_ref_from({**REF, "spool_day": "9999-99-99"}).spool_day == "9999-99-99"


def test_retry_doubles_and_ends_exactly_at_the_limit() -> None:
    schedule, slept, elapsed_s = blob.ResolveRetry(), [], 0.0
    while (delay_s := schedule.delay_s(len(slept), elapsed_s)) is not None:
        slept.append(delay_s)
        elapsed_s += delay_s
    assert slept[:6] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 1.9])
    assert elapsed_s == pytest.approx(5.0)


@given(st.integers(0, 10_000), st.floats(0, 10_000))
def test_a_delay_never_passes_the_limit(attempt: int, elapsed_s: float) -> None:
    delay_s = blob.ResolveRetry().delay_s(attempt, elapsed_s)
    assert delay_s is None or 0 < delay_s <= 5.0 - elapsed_s


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("BLOB_NOT_FOUND", NotFound),
        ("BLOB_IO_ERROR", Unavailable),
        ("BLOB_INVALID_NAME", Invalid),
        ("BLOB_INVALID_REF", Invalid),
        ("BLOB_TOO_LARGE", Invalid),
        ("BLOB_SYNC_HINT_TIMEOUT", Busy),
        ("BLOB_SYNC_HINT_FAILED", Unavailable),
        ("BLOB_SYNC_HINT_TRANSPORT", Unreachable),
        ("BLOB_NOT_IMPLEMENTED", Unavailable),
    ],
)
def test_error_text_starts_with_the_code(code: str, kind: type[FluxbeeError]) -> None:
    error = blob.blob_error(code, "why")
    assert type(error) is kind
    assert (error.code, str(error)) == (code, f"{code}: why")


def test_the_codes_are_all_of_the_specification() -> None:
    assert len(blob.BLOB_ERROR_CODES) == 9
