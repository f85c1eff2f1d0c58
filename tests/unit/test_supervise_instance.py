import errno
import json
import os
import stat
import threading

import pytest

from appliance.supervise.instance import (
    CONFIG_FILE,
    STATE_FILE,
    FileFacts,
    Instance,
    clean_instances,
    list_instances,
    pretty_json,
)
from appliance.system.paths import Paths
from appliance.wire.errors import Conflict, Damaged, Invalid, NotFound, Unavailable

NAME = "AI.a@h"


@pytest.fixture
def paths(tmp_path):
    return Paths(tmp_path)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_configuration_is_made_once_private_and_readable_by_people(paths):
    instance = Instance(paths, NAME)
    instance.create_config({"a": 1})
    assert instance.config_path == paths.nodes / "AI" / NAME / "config.json"
    assert instance.config_path.read_text() == '{\n  "a": 1\n}\n'
    assert (mode(instance.directory), mode(instance.config_path)) == (0o700, 0o600)
    with pytest.raises(Conflict) as caught:
        instance.create_config({"a": 2})
    assert caught.value.code == "NODE_ALREADY_EXISTS"
    assert instance.read_config() == {"a": 1}
    assert [path.name for path in instance.directory.iterdir()] == ["config.json"]


def test_of_many_creators_at_once_one_wins(paths):
    won, lost = [], []

    def create(number):
        try:
            Instance(paths, NAME).create_config({"number": number})
            won.append(number)
        except Conflict:
            lost.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert Instance(paths, NAME).read_config() == {"number": won[0]}


def test_a_change_keeps_the_mode(paths):
    instance = Instance(paths, NAME)
    instance.create_config({})
    instance.replace_config({"b": 2})
    assert json.loads(instance.config_path.read_text()) == {"b": 2}
    assert mode(instance.config_path) == 0o600


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"a":' * 5000])
def test_what_is_no_object_is_told_apart_from_what_is_missing(paths, content):
    instance = Instance(paths, NAME)
    with pytest.raises(NotFound) as missing:
        instance.read_config()
    assert missing.value.code == "NODE_CONFIG_NOT_FOUND"
    assert instance.read_state() is None
    assert instance.config() == (None, FileFacts())
    instance.make()
    instance.config_path.write_text(content)
    instance.state_path.write_text(content)
    with pytest.raises(Damaged) as wrong:
        instance.read_config()
    assert wrong.value.code == "NODE_CONFIG_INVALID"
    with pytest.raises(Damaged) as state:
        instance.read_state()
    assert state.value.code == "NODE_STATE_READ_FAILED"
    found, facts = instance.config()
    assert (found, facts.exists, facts.valid) == (None, True, False)


def test_a_file_without_bound_is_not_read(paths):
    instance = Instance(paths, NAME)
    instance.make()
    with instance.config_path.open("wb") as file:
        file.truncate(8 << 20)
    with pytest.raises(Damaged, match="larger than"):
        instance.read_config()


def test_a_directory_in_the_place_of_the_file_is_a_read_error(paths):
    instance = Instance(paths, NAME)
    instance.config_path.mkdir(parents=True)
    with pytest.raises(Unavailable) as caught:
        instance.read_config()
    assert caught.value.code == "NODE_CONFIG_READ_FAILED"


def test_a_refusing_medium_is_a_write_error(paths, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    instance = Instance(paths, NAME)
    for write in (instance.create_config, instance.replace_config):
        with pytest.raises(Unavailable) as caught:
            write({})
        assert caught.value.code == "CONFIG_WRITE_FAILED"


def test_a_removal_takes_the_directory_and_an_empty_kind(paths):
    first, second = Instance(paths, NAME), Instance(paths, "AI.b@h")
    for instance in (first, second):
        instance.create_config({})
    assert first.remove().kind_directory is False
    removed = second.remove()
    assert (removed.directory, removed.kind_directory) == (second.directory, True)
    assert second.remove() is None
    assert list(paths.nodes.iterdir()) == []


def test_instances_are_found_and_what_is_none_is_passed_over(paths):
    assert list(list_instances(paths)) == []
    for name in ("WF.z@h", "AI.b@h", "AI.a@h", "odd@h"):
        Instance(paths, name).make()
    for stray in ("AI/.removing-1", "AI/WF.stray@h", "AI/nohive", "file"):
        (paths.nodes / stray).mkdir(parents=True)
    (paths.nodes / "AI" / "AI.link@h").symlink_to(paths.nodes)
    assert [one.name for one in list_instances(paths)] == ["AI.a@h", "AI.b@h", "WF.z@h", "odd@h"]


def test_a_name_that_leaves_the_directory_is_refused(paths):
    for name in ("../x@h", "AI.a", "..@h", "A/b@h"):
        with pytest.raises(Invalid):
            Instance(paths, name)


def test_json_is_pretty_and_ends_with_a_line(paths):
    assert pretty_json({"b": [1]}) == b'{\n  "b": [\n    1\n  ]\n}\n'


@pytest.mark.parametrize("file", [CONFIG_FILE, STATE_FILE])
def test_a_pipe_or_a_link_in_the_place_of_a_file_neither_holds_nor_leads_us(paths, file):
    instance = Instance(paths, "AI.a@h")
    instance.make()
    secret = paths.nodes / "secret"
    secret.write_text('{"key": "value"}')
    for place in (lambda at: os.mkfifo(at), lambda at: at.symlink_to(secret), lambda at: at.mkdir()):
        at = instance.directory / file
        place(at)
        document, facts = instance.config() if file == CONFIG_FILE else instance.state()
        assert (document, facts.valid) == (None, False)
        at.rmdir() if at.is_dir() and not at.is_symlink() else at.unlink()


def test_a_medium_that_fills_at_the_first_configuration_leaves_no_ghost(paths, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Unavailable) as caught:
        Instance(paths, "AI.a@h").create_config({"a": 1})
    assert caught.value.code == "CONFIG_WRITE_FAILED"
    monkeypatch.undo()
    assert list(paths.nodes.rglob("*")) == []


def test_what_kills_left_is_cleaned_and_nothing_else(paths):
    kept = Instance(paths, "AI.a@h")
    kept.create_config({"a": 1})
    (kept.directory / ".config.0123.tmp").write_text("{")
    (kept.directory / "data").write_text("the node's own")
    (paths.nodes / "AI" / ".removing-0123").mkdir()
    (paths.nodes / "AI" / ".removing-0123" / "config.json").write_text("{}")
    Instance(paths, "WF.made@h").make()
    assert clean_instances(paths) == 2
    found = sorted(str(one.relative_to(paths.nodes)) for one in paths.nodes.rglob("*"))
    assert found == ["AI", "AI/AI.a@h", "AI/AI.a@h/config.json", "AI/AI.a@h/data"]


def test_directories_a_thousand_deep_are_removed_too(paths):
    instance = Instance(paths, "AI.a@h")
    instance.create_config({"a": 1})
    home, fd = os.getcwd(), os.open(instance.directory, os.O_RDONLY)
    try:
        for _ in range(3000):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
    finally:
        os.close(fd)
    assert os.getcwd() == home
    assert instance.remove() is not None
    assert list(paths.nodes.iterdir()) == []
