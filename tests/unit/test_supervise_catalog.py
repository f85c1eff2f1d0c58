import os

from appliance.supervise import catalog as catalogs
from appliance.supervise.catalog import InstanceCatalog
from appliance.supervise.instance import Instance
from appliance.system.paths import Paths


def test_files_are_read_again_only_when_they_changed(tmp_path, monkeypatch):
    paths = Paths(tmp_path)
    reads = []
    real = catalogs._read
    monkeypatch.setattr(catalogs, "_read", lambda instance: reads.append(instance.name) or real(instance))
    for name in ("AI.a@h", "AI.b@h"):
        Instance(paths, name).create_config({"_system": {"runtime": "r1"}})
    catalog = InstanceCatalog(paths)
    assert sorted(catalog.look()) == ["AI.a@h", "AI.b@h"]
    catalog.look()
    assert reads == ["AI.a@h", "AI.b@h"]
    Instance(paths, "AI.a@h").replace_config({"_system": {"runtime": "r2"}})
    assert catalog.look()["AI.a@h"].system.runtime == "r2"
    Instance(paths, "AI.b@h").state_path.write_text('{"last_error": 1}')
    assert catalog.look()["AI.b@h"].state_error == 1
    assert reads[2:] == ["AI.a@h", "AI.b@h"]
    Instance(paths, "AI.a@h").remove()
    assert sorted(catalog.look()) == ["AI.b@h"]


def test_a_directory_without_files_is_an_instance_without_configuration(tmp_path):
    paths = Paths(tmp_path)
    Instance(paths, "AI.a@h").make()
    os.symlink("nowhere", Instance(paths, "AI.a@h").config_path)
    found = InstanceCatalog(paths).look()["AI.a@h"]
    assert (found.config.valid, found.system.runtime) == (False, None)
