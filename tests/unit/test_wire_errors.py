from __future__ import annotations

import inspect

import pytest

from appliance.wire import errors
from appliance.wire.errors import Busy, FluxbeeError, Invalid, Unreachable

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_says_what_a_program_and_a_person_need(kind: type[FluxbeeError]) -> None:
    error = kind("the disk is full")
    assert str(error) == error.message == "the disk is full"
    assert error.code == error.code.upper()
    assert 400 <= error.status <= 599
    assert error.remedy.endswith(".")
    assert isinstance(error, FluxbeeError)


def test_codes_are_distinct_so_that_a_program_can_tell() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(set(codes)) == len(codes)


def test_the_whole_tree_is_exported() -> None:
    defined = {name for name, kind in vars(errors).items() if inspect.isclass(kind)}
    assert defined == set(errors.__all__)


def test_code_remedy_and_field_can_be_closer_to_the_case() -> None:
    error = Invalid("ttl: too large", code="INVALID_TTL", remedy="Use 0 to 255.", field="routing.ttl")
    assert (error.code, error.remedy, error.field) == ("INVALID_TTL", "Use 0 to 255.", "routing.ttl")
    assert Invalid.code == "INVALID_REQUEST"
    assert Unreachable("gone", code="NODE_NOT_FOUND").status == 502


def test_busy_says_when_to_come_back() -> None:
    assert Busy("full").retry_after_s == 1.0
    error = Busy("full", retry_after_s=2.5, code="QUEUE_FULL")
    assert (error.retry_after_s, error.code, error.field) == (2.5, "QUEUE_FULL", None)
