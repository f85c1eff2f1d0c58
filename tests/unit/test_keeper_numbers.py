from __future__ import annotations

import pytest

from appliance.keeper.numbers import KeeperSettings, routing_plane


def test_defaults_fit_together_and_stop_within_five_seconds() -> None:
    assert KeeperSettings().stop_give_up_s < 5.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"backoff_initial_s": 0.0},
        {"backoff_initial_s": 31.0},
        {"backoff_jitter": -0.1},
        {"stop_soft_s": 4.5},
        {"stop_hard_s": 4.9},
        {"stop_soft_s": 0.0},
        {"park_after": 0},
        {"healthy_after_s": 0.0},
        {"start_timeout_s": -1.0},
        {"restart_grace_s": 0.0},
    ],
)
def test_numbers_that_do_not_fit_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        KeeperSettings(**wrong)


@pytest.mark.parametrize(
    ("planes", "routing"),
    [(("control", "world", "data"), "data"), (("all",), "all"), (("data",), "data"), (("lone",), "lone")],
)
def test_which_plane_routes(planes, routing) -> None:
    assert routing_plane(planes) == routing


@pytest.mark.parametrize("planes", [(), ("control", "world")])
def test_some_plane_has_to_route(planes) -> None:
    with pytest.raises(ValueError, match="none of the planes"):
        routing_plane(planes)
