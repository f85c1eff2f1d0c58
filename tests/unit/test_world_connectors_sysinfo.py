"""The box about itself: what is read, and what of it is worth an event."""

from __future__ import annotations

import pytest

from appliance.world.connectors.sysinfo import SIGN_OF_LIFE_S, BoxReader, Notable


@pytest.fixture
def box(tmp_path):
    """A box made of files."""
    root = tmp_path / "box"
    for path, text in {
        "proc/stat": "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2 3\n",
        "proc/loadavg": "0.52 0.58 0.59 1/345 6789\n",
        "proc/meminfo": "MemTotal: 1024000 kB\nMemFree: 1 kB\nMemAvailable: 256000 kB\nodd\n",
        "proc/uptime": "123.45 200.00\n",
        "sys/class/thermal/thermal_zone0/temp": "41200\n",
        "sys/class/thermal/thermal_zone1/temp": "48900\n",
        "sys/class/net/eth0/operstate": "up\n",
        "sys/class/net/lo/operstate": "unknown\n",
    }.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (root / "sys/class/net/eth0/device").mkdir()
    return root


def test_a_whole_look(box, tmp_path):
    reader = BoxReader(tmp_path, box)
    look = reader.read()
    assert look["cpu_percent"] == 20.0
    assert look["load_1m"] == 0.52
    assert (look["memory_percent"], look["memory_mb"]) == (75.0, 1000)
    assert look["temperature_c"] == 48.9
    assert look["uptime_s"] == 123
    assert look["link_eth0"] == "up"
    assert "link_lo" not in look
    assert 0 <= look["disk_percent"] <= 100
    (box / "proc/stat").write_text("cpu  150 0 100 750 100 0 0 0 0 0\n")
    assert reader.read()["cpu_percent"] == 50.0
    assert "cpu_percent" not in reader.read(), "no time passed"


def test_what_this_box_does_not_show_is_left_out(tmp_path):
    assert set(BoxReader(tmp_path, tmp_path / "nothing").read()) == {"disk_percent", "disk_mb"}
    assert BoxReader(tmp_path / "gone", tmp_path / "nothing").read() == {}


def test_a_broken_sensor_does_not_silence_the_others(box, tmp_path):
    (box / "sys/class/thermal/thermal_zone1/temp").write_text("n/a")
    (box / "proc/meminfo").write_text("nonsense")
    look = BoxReader(tmp_path, box).read()
    assert look["temperature_c"] == 41.2
    assert "memory_percent" not in look
    assert look["load_1m"] == 0.52


def test_this_box():
    from pathlib import Path

    look = BoxReader(Path("/")).read()
    assert look["memory_mb"] > 0
    assert look["uptime_s"] > 0


LOOK = {"cpu_percent": 10.0, "disk_percent": 50.0, "uptime_s": 5, "link_eth0": "up"}


def test_only_what_moved_is_told():
    notable = Notable()
    assert notable.changes(LOOK, 0) == LOOK
    notable.told(LOOK, 0)
    assert notable.changes({**LOOK, "uptime_s": 65, "cpu_percent": 20.0}, 60) == {}
    moved = notable.changes({**LOOK, "uptime_s": 65, "cpu_percent": 26.0}, 300)
    assert moved == {"cpu_percent": 26.0, "uptime_s": 65}
    notable.told(moved, 300)
    assert notable.changes({**LOOK, "cpu_percent": 90.0}, 599) == {}, "not that often"
    assert notable.changes({**LOOK, "cpu_percent": 30.0, "link_eth0": "down"}, 360) == {
        "link_eth0": "down",
        "uptime_s": 5,
    }
    assert notable.changes({"new": 1}, 600) == {"new": 1}


def test_small_steps_add_up():
    notable = Notable()
    notable.told(LOOK, 0)
    assert not notable.changes({**LOOK, "disk_percent": 50.6}, 300)
    assert notable.changes({**LOOK, "disk_percent": 51.0}, 360)["disk_percent"] == 51.0


def test_a_sign_of_life_holds_everything_even_when_something_vanished():
    notable = Notable()
    notable.changes(LOOK, 0)
    notable.told(LOOK, 0)
    less = {name: value for name, value in LOOK.items() if name != "link_eth0"}
    assert notable.changes(less, SIGN_OF_LIFE_S) == less
    notable.told(less, SIGN_OF_LIFE_S)
    assert notable.changes(less, SIGN_OF_LIFE_S + 60) == {}


def test_what_was_not_published_is_still_to_be_told():
    notable = Notable()
    assert notable.changes(LOOK, 0) == LOOK
    assert notable.changes(LOOK, 60) == LOOK


@pytest.mark.parametrize(("restless", "most"), [(1.0, 96), (90.0, 288)])
def test_how_often_a_box_publishes_in_a_day(restless, most):
    """35 kB each: within the 20 MB a day that an idle box may write."""
    notable, events = Notable(), 0
    for minute in range(1440):
        look = {**LOOK, "cpu_percent": 2.0 + restless * (minute % 7), "uptime_s": minute * 60}
        if changes := notable.changes(look, minute * 60.0):
            notable.told(changes, minute * 60.0)
            events += 1
    assert events == most
