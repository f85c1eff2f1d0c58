import pytest

from appliance.services.orchestrator.allow import Allowed, forbidden
from appliance.wire.envelope import system_message

DEFAULT = ("SY.admin", "WF.orch.diag")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("SY.admin@h", True),
        ("SY.admin@other", True),
        ("SY.orchestrator@other", True),
        ("SY.orchestrator.relay.1@h", True),
        ("SY.wf-rules@h", True),
        ("WF.orch.diag@h", True),
        ("SY.administrator@h", False),
        ("SY.identity@h", False),
        ("AI.SY.admin@h", False),
        ("WF.orch.diagnosis@h", False),
        ("AI.x@h", False),
        ("", False),
        (None, False),
    ],
)
def test_only_those_on_the_list_may_change_nodes(name, allowed):
    assert Allowed("h", DEFAULT).may_change(name) is allowed


def test_a_bare_name_means_this_hive_and_patterns_are_names():
    own = Allowed("h", ("AI.boss", "WF.ops.*"))
    assert [own.may_change(name) for name in ("AI.boss@h", "AI.boss@x", "WF.ops.a@h", "WF.ops.a@x")] == [
        True,
        False,
        True,
        False,
    ]
    assert Allowed("h", ("*",)).may_change("AI.x@h")
    assert Allowed("h", (), everybody=True).may_change(None)


def test_a_refusal_says_who_was_refused():
    message = system_message(src="u", dst="x", verb="KILL_NODE")
    message.routing.src_l2_name = "AI.x@h"
    refusal = forbidden(message)
    assert (refusal["error_code"], refusal["src_uuid"], refusal["src_l2_name"]) == (
        "FORBIDDEN",
        "u",
        "AI.x@h",
    )
