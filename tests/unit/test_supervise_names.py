import pytest

from appliance.supervise.names import check_spawnable, parse_node_name, unit_name
from appliance.wire.errors import Invalid


@pytest.mark.parametrize(
    ("text", "full", "kind"),
    [
        ("AI.chat", "AI.chat@h", "AI"),
        ("AI.chat@other", "AI.chat@other", "AI"),
        (" WF.a-b.c_1 ", "WF.a-b.c_1@h", "WF"),
        ("custom", "custom@h", "custom"),
    ],
)
def test_a_name_is_completed(text, full, kind):
    name = parse_node_name(text, "h")
    assert (name.full, name.kind) == (full, kind)


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "  ",
        "AI/x",
        "..",
        ".AI",
        "../../etc",
        "AI.x@",
        "AI.x@no hive",
        "A@B@c",
        "AI.\0",
        "A" * 250,
    ],
)
def test_what_is_no_name_is_refused(text):
    with pytest.raises(Invalid) as caught:
        parse_node_name(text, "h")
    assert caught.value.field == "node_name"


def test_nodes_of_the_appliance_are_protected():
    for text in ("SY.admin", "RT.gateway", "RT.other"):
        with pytest.raises(Invalid, match="cannot be killed"):
            check_spawnable(parse_node_name(text, "h"), act="killed")
    check_spawnable(parse_node_name("IO.SY.x", "h"), act="killed")


def test_units_are_named_as_the_reference_names_them():
    assert unit_name("AI.greeter@mother") == "fluxbee-node-AI.greeter-mother"
    assert unit_name("AI.x@h", "my unit.service") == "my-unit"
    assert unit_name("AI.x@h", "") == "fluxbee-node-AI.x-h"
    assert unit_name("AI.x@h", "../../etc/passwd") == "etc-passwd"
    with pytest.raises(Invalid):
        unit_name("AI.x@h", 7)
    with pytest.raises(Invalid):
        unit_name("AI.x@h", "...")
