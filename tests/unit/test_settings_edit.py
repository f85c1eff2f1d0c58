"""One value changes, every other character stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.settings import SettingsError, load, with_value
from appliance.settings.keys import leaves
from appliance.settings.schema import Settings
from appliance.settings.yamlnodes import parse

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'storage:\n  path: "/x"\n'),
        ("# only words\n", '# only words\nstorage:\n  path: "/x"\n'),
        ("hive_id: a", 'hive_id: a\nstorage:\n  path: "/x"\n'),
        ("storage: {path: /a}  # why\n", 'storage: {path: "/x"}  # why\n'),
        ("storage:\n  path: '/a'  # why\nrole: worker\n", 'storage:\n  path: "/x"  # why\nrole: worker\n'),
        ("storage:\n  path:\nrole: worker\n", 'storage:\n  path: "/x"\nrole: worker\n'),
        ("storage:\nrole: worker\n", 'storage: {path: "/x"}\nrole: worker\n'),
        ("storage: {}\n", 'storage: {path: "/x"}\n'),
        ("storage: {old: 1}\n", 'storage: {path: "/x", old: 1}\n'),
        ("storage:\n    # first\n    old: 1\n", 'storage:\n    # first\n    path: "/x"\n    old: 1\n'),
        ("{role: worker}\n", '{storage: {path: "/x"}, role: worker}\n'),
        ("storage: {path: /a, path2: 1}\nunknown: [1, {a: 2}]\n", None),
        ('"storage":\n  "path": |-\n    /a\n# end\n', None),
        ("\ufeffstorage: {path: /a}\n", None),
    ],
)
def test_forms(before: str, after: str | None) -> None:
    changed = with_value(before, "storage.path", "/x")
    assert changed == after or after is None
    assert with_value(changed, "storage.path", "/x") == changed


def test_comments_and_order_survive() -> None:
    text = (REPOSITORY / "config/worker.yaml").read_text()
    changed = with_value(text, "hive_id", "edge-3")
    assert changed == text + 'hive_id: "edge-3"\n'
    assert with_value(changed, "hive_id", "edge-4") == text + 'hive_id: "edge-4"\n'


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("", "storage.paht", "the nearest key is storage.path"),
        ("a: [", "storage.path", "not YAML"),
        ("[1]", "storage.path", "does not hold keys and values"),
        ("storage: {path: [a]}", "storage.path", "cannot be changed"),
        ("storage: {path: {a: b}}", "storage.path", "cannot be changed"),
        ("a: &p /a\nstorage: {path: *p}", "storage.path", "cannot be changed"),
        ("storage: [a]", "storage.path", "cannot be changed"),
        ("storage: word", "storage.path", "cannot be changed"),
    ],
)
def test_what_cannot_be_changed_is_refused(text: str, key: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        with_value(text, key, "/x")


SCALARS = st.sampled_from(["1", "'a b'", '"c"', "~", "", "[1, 2]", "{d: 1}", "word # said"])
NAMES = [name for name in leaves(Settings) if name.count(".") <= 2]


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Block documents with comments and blank lines, some of whose keys are known ones."""
    lines = []
    for name in draw(st.lists(st.sampled_from(["storage", "wan", "x", "y"]), unique=True)):
        lines.append(draw(st.sampled_from(["", "# note"])))
        if draw(st.booleans()):
            lines.append(f"{name}: {draw(SCALARS)}")
            continue
        lines.append(f"{name}:" + draw(st.sampled_from(["", " # why"])))
        below = draw(st.lists(st.sampled_from(["path", "listen", "z"]), unique=True))
        lines.extend(f"  {name}: {draw(SCALARS)}" for name in below)
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"]))


@given(
    documents(),
    st.sampled_from(["storage.path", "wan.listen", "hive_id", "blob.sync.data_dir"]),
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="#"),
        min_size=1,
        max_size=20,
    ),
)
def test_the_value_stands_there_or_nothing_changed(text: str, key: str, value: str) -> None:
    try:
        changed = with_value(text, key, value)
    except SettingsError:
        return
    assert parse(changed.encode(), "x")[1] == []
    assert with_value(changed, key, value) == changed
    assert changed.count("#") == text.count("#")


@given(st.sampled_from(NAMES))
def test_every_key_can_be_set_in_an_empty_file(key: str) -> None:
    if "list" not in leaves(Settings)[key].expects:
        assert parse(with_value("", key, "v").encode(), "x")[1] == []


def test_what_was_written_loads(tmp_path: Path) -> None:
    file = tmp_path / "hive.yaml"
    file.write_text(with_value("role: worker\n", "storage.path", "/data/ä b"))
    assert load(file, environ={}).settings.storage_dir == Path("/data/ä b")
