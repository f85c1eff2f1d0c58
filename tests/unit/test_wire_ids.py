from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.wire.ids import canonical_uuid, new_uuid

KNOWN = "5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"
NOTATIONS = [
    KNOWN,
    KNOWN.upper(),
    KNOWN.replace("-", ""),
    KNOWN.replace("-", "").upper(),
    f"{{{KNOWN}}}",
    f"{{{KNOWN.upper()}}}",
    f"urn:uuid:{KNOWN}",
    f"URN:UUID:{KNOWN.upper()}",
    f"Urn:Uuid:{KNOWN}",
]
NEARLY = [
    "",
    "AI.echo@north",
    "broadcast",
    KNOWN[:-1],
    KNOWN + "0",
    KNOWN + "\n",
    " " + KNOWN,
    f"{{{KNOWN}",
    f"{KNOWN}}}",
    f"({KNOWN})",
    KNOWN.replace("-", "_"),
    "5b0d1c2e7f0e-4b7c-8a53-3f0d7b1f6a10",
    "5b0d1c2e7-f0e-4b7c-8a53-3f0d7b1f6a10",
    "-".join(KNOWN.replace("-", "")),
    KNOWN.replace("5", "g"),
    KNOWN.replace("5", "٥"),
    "uuid:" + KNOWN,
    "urn:uuid:urn:uuid:" + KNOWN,
    "0x" + KNOWN.replace("-", ""),
]


@pytest.mark.parametrize("text", NOTATIONS)
def test_every_usual_notation_has_one_canonical_form(text: str) -> None:
    assert canonical_uuid(text) == KNOWN


@pytest.mark.parametrize("text", NEARLY)
def test_what_only_looks_like_a_uuid_is_none(text: str) -> None:
    assert canonical_uuid(text) is None


@given(
    st.uuids(), st.sampled_from(["{}", "{{{}}}", "urn:uuid:{}", "URN:uuid:{}"]), st.booleans(), st.booleans()
)
def test_canonical_form_is_a_fixed_point(value: uuid.UUID, shape: str, bare: bool, upper: bool) -> None:
    digits = value.hex if bare else str(value)
    text = shape.format(digits.upper() if upper else digits)
    assert canonical_uuid(text) == str(value)
    assert canonical_uuid(str(value)) == str(value)


@given(st.text(alphabet="0123456789abcdefABCDEF-{}urniduUN:.@ \n", max_size=60))
def test_any_text_is_answered_and_never_crashes(text: str) -> None:
    found = canonical_uuid(text)
    assert found is None or str(uuid.UUID(found)) == found


def test_new_uuids_are_canonical_version_four_and_differ() -> None:
    first, second = new_uuid(), new_uuid()
    assert canonical_uuid(first) == first
    assert uuid.UUID(first).version == 4
    assert first != second
