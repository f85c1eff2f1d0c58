"""What a package must be."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from appliance.supervise.package import check_package_name, check_package_version, validate_package
from appliance.supervise.tree import TreeLimits
from appliance.wire.errors import Invalid
from tests.unit.packages_kit import START, make_package


def refused(directory: Path, **more: object) -> str:
    with pytest.raises(Invalid) as caught:
        validate_package(directory, **more)  # type: ignore[arg-type]
    assert caught.value.code == "INVALID_REQUEST"
    return str(caught.value)


def test_a_full_runtime(tmp_path):
    package = validate_package(make_package(tmp_path / "p", {"data/x": "abc"}, description="Greets"))
    assert (package.name, package.version, package.package_type) == ("ai.greeter", "0.1.0", "full_runtime")
    assert (package.runtime_base, package.description, package.files) == (None, "Greets", 3)
    assert package.size_bytes == sum(
        path.stat().st_size for path in (tmp_path / "p").rglob("*") if path.is_file()
    )
    assert package.content == (tmp_path / "p/package.json").read_bytes()


def test_a_version_from_outside_is_written_into_the_description(tmp_path):
    directory = make_package(tmp_path / "p", owner={"team": "x"})
    package = validate_package(directory, version="2.0.0-rc.1+b5")
    written = json.loads(package.content)
    assert written == json.loads((directory / "package.json").read_text()) | {"version": "2.0.0-rc.1+b5"}
    assert "no package" not in refused(directory, version="2")


@pytest.mark.parametrize("kind", ["config_only", "workflow"])
def test_base_backed_packages_need_their_base(tmp_path, kind):
    directory = make_package(tmp_path / "p", {"flow/definition.json": "{}"}, kind=kind)
    assert refused(directory) == f"runtime_base is required for {kind}"
    make_package(directory, kind=kind, runtime_base="")
    assert refused(directory) == f"runtime_base is required for {kind}"
    make_package(directory, kind=kind, runtime_base="Not-A-Name")
    assert "runtime_base" in refused(directory)
    make_package(directory, kind=kind, runtime_base="ai.greeter")
    assert validate_package(directory).runtime_base == "ai.greeter"


def test_a_workflow_has_a_flow(tmp_path):
    directory = make_package(tmp_path / "p", kind="workflow", runtime_base="wf.engine")
    assert "flow/" in refused(directory)
    (directory / "flow").write_text("a file")
    assert "flow/" in refused(directory)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"name": "Ai.x"}, "name"),
        ({"name": "ai-x"}, "name"),
        ({"name": "ai..x"}, "name"),
        ({"name": "ai." + "x" * 130}, "name"),
        ({"version": "1.0"}, "semver"),
        ({"version": "01.0.0"}, "semver"),
        ({"version": "1.0.0-"}, "semver"),
        ({"kind": "half_runtime"}, "type"),
        ({"runtime_base": "ai.x"}, "runtime_base"),
        ({"config_template": "config/none.json"}, "config_template"),
        ({"config_template": "../x"}, "config_template"),
        ({"config_template": 5}, "config_template"),
        ({"entry_point": "/bin/sh"}, "entry_point"),
        ({"entry_point": "bin"}, "entry point"),
        ({"entry_point": "bin/none"}, "entry point"),
    ],
)
def test_rules_name_what_they_refuse(tmp_path, about, words):
    assert words in refused(make_package(tmp_path / "p", {"bin/start.sh": START}, **about))


def test_the_entry_point_is_an_executable_file(tmp_path):
    directory = make_package(tmp_path / "p")
    (directory / "bin/start.sh").chmod(0o644)
    assert "not executable" in refused(directory)
    (directory / "bin/start.sh").unlink()
    assert "does not exist" in refused(directory)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 50_000, '{"name":"ai.x"}'])
def test_a_description_that_is_none(tmp_path, text):
    directory = make_package(tmp_path / "p")
    (directory / "package.json").write_text(text)
    refused(directory)
    (directory / "package.json").unlink()
    assert "package.json is missing" in refused(directory)
    assert "not a directory" in refused(directory / "package.json")


def test_links_and_special_files_are_refused_wherever_they_are(tmp_path):
    directory = make_package(tmp_path / "p", {"a/b/c": "x"})
    odd = directory / "a/b/odd"
    odd.symlink_to("/etc/passwd")
    assert "a/b/odd: a symbolic link" in refused(directory)
    odd.unlink()
    os.mkfifo(odd)
    assert "special file" in refused(directory)
    odd.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(odd))
        assert "special file" in refused(directory)
    odd.unlink()
    odd.symlink_to(directory / "a", target_is_directory=True)
    assert "symbolic link" in refused(directory)


def test_limits_are_counted(tmp_path):
    directory = make_package(tmp_path / "p", {"a/b/c/d": "x", "big": "x" * 5000})
    assert "bytes" in refused(directory, limits=TreeLimits(max_bytes=1000))
    assert "files and directories" in refused(directory, limits=TreeLimits(max_entries=3))
    assert "too deep" in refused(directory, limits=TreeLimits(max_depth=1))


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    directory = make_package(tmp_path / "p")
    with open(os.path.join(os.fsencode(directory), b"\xff"), "w"):
        pass
    assert "UTF-8" in refused(directory)


@pytest.mark.parametrize("name", ["ai", "ai.greeter", "a1.b2.3c"])
def test_good_names(name):
    assert check_package_name(name) == name


@pytest.mark.parametrize("version", ["0.0.0", "1.2.3-rc.1", "1.0.0+b", "10.20.30-a-b.0+x.y"])
def test_good_versions(version):
    assert check_package_version(version) == version
