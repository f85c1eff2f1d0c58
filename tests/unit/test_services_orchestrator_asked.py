import pytest

from appliance.services.orchestrator.asked import flag, node_of, refuse_legacy, text, texts
from appliance.wire.errors import Invalid


def test_texts_and_flags_are_read_with_their_types():
    assert text({"a": "x"}, "a") == "x"
    assert text({"a": ""}, "a") is text({"a": None}, "a") is text({}, "a") is None
    assert texts({"a": ["x"]}, "a") == ("x",)
    assert texts({}, "a") == ()
    assert [flag({"a": value}, "a", default=False) for value in (True, "1", "true", None, "0", False)] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "read",
    [
        lambda: text({"a": 1}, "a"),
        lambda: texts({"a": "x"}, "a"),
        lambda: texts({"a": [1]}, "a"),
        lambda: flag({"a": "maybe"}, "a", default=True),
        lambda: flag({"a": 1}, "a", default=True),
        lambda: refuse_legacy({"name": "x"}, "name", "version"),
        lambda: node_of({"node_name": "AI.x", "target": 7}, "h"),
        lambda: node_of({"node_name": "AI.x", "target": "not a hive"}, "h"),
    ],
)
def test_a_wrong_type_names_its_key(read):
    with pytest.raises(Invalid) as caught:
        read()
    assert caught.value.code == "INVALID_REQUEST"


def test_a_hive_in_the_name_wins_over_the_target():
    assert node_of({"node_name": "AI.x@a", "target": "b"}, "h").full == "AI.x@a"
    assert node_of({"node_name": "AI.x", "target": "b"}, "h").full == "AI.x@b"
    assert node_of({"node_name": "AI.x"}, "h").full == "AI.x@h"
