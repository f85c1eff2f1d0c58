"""Trees of files: paths that stay inside, equal content, removal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.supervise.tree import (
    TreeLimits,
    check_relative,
    check_space,
    copy_tree,
    free_bytes,
    remove_empty,
    remove_tree,
    same_tree,
    scan_tree,
)
from appliance.wire.errors import Invalid, NotFound, Unavailable

LIMITS = TreeLimits()


@given(st.text(st.sampled_from("ab./\\é\n\x00:~"), max_size=12))
def test_a_relative_path_stays_below(text):
    try:
        path = check_relative(text, "entry")
    except Invalid:
        return
    joined = os.path.normpath(f"/root/{path}")
    assert joined.startswith("/root/")
    assert joined == f"/root/{text}"


def make(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"a": "1", "d__b": "2"}, True),
        ({"a": "1", "d__b": "3"}, False),
        ({"a": "1", "d__b": "22"}, False),
        ({"a": "1"}, False),
        ({"a": "1", "d__b": "2", "c": ""}, False),
        ({"a": "1", "d__c": "2"}, False),
    ],
)
def test_trees_are_compared_by_content(tmp_path, other, same):
    one = make(tmp_path / "one", a="1", d__b="2")
    two = make(tmp_path / "two", **other)
    assert same_tree(one, scan_tree(one, LIMITS), two, {}, LIMITS) is same


def test_a_file_may_stand_for_another_content(tmp_path):
    one = make(tmp_path / "one", a="1")
    two = make(tmp_path / "two", a="instead")
    entries = scan_tree(one, LIMITS)
    assert same_tree(one, entries, two, {"a": b"instead"}, LIMITS)
    assert not same_tree(one, entries, two, {"a": b"Instead"}, LIMITS)
    (two / "link").symlink_to("a")
    assert not same_tree(one, entries, two, {"a": b"instead"}, LIMITS)
    copy_tree(one, entries, tmp_path / "copy", {"a": b"instead"})
    assert (tmp_path / "copy/a").read_text() == "instead"


def test_what_changes_while_it_is_copied_is_told(tmp_path):
    one = make(tmp_path / "one", a="12345", b="x")
    entries = scan_tree(one, LIMITS)
    (one / "a").write_text("1")
    with pytest.raises(Invalid, match="shorter"):
        copy_tree(one, entries, tmp_path / "c1", {})
    (one / "a").unlink()
    (one / "a").symlink_to("b")
    with pytest.raises(Unavailable):
        copy_tree(one, entries, tmp_path / "c2", {})
    (one / "a").unlink()
    os.mkfifo(one / "a")
    with pytest.raises(Invalid, match="changed"):
        copy_tree(one, entries, tmp_path / "c3", {})


def test_space_is_asked_of_the_file_system(tmp_path):
    check_space(tmp_path, 0)
    with pytest.raises(Unavailable) as caught:
        check_space(tmp_path, free_bytes(tmp_path) + 1)
    assert caught.value.code == "STORAGE_FULL"
    with pytest.raises(NotFound):
        free_bytes(tmp_path / "none")


def test_removal_tells_and_does_not_raise(tmp_path):
    make(tmp_path / "one", a="1")
    assert not remove_empty(tmp_path / "one")
    assert remove_tree(tmp_path / "one") is None
    assert remove_tree(tmp_path / "one") is None
    (tmp_path / "file").write_text("x")
    assert remove_tree(tmp_path / "file") is not None
    (tmp_path / "empty").mkdir()
    assert remove_empty(tmp_path / "empty")
