"""hive.yaml: defaults, precedence, sources, rules, notices, and the templates that ship."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from appliance.settings import Configuration, Settings, SettingsError, Source, load
from appliance.settings.keys import leaves
from appliance.settings.load import HIDDEN
from appliance.settings.rules import notices
from appliance.system.paths import Paths
from appliance.wire.errors import Misconfigured

REPOSITORY = Path(__file__).parents[2]


def read(tmp_path: Path, text: str, **environ: str) -> Configuration:
    file = tmp_path / "hive.yaml"
    file.write_text(text)
    return load(file, environ=environ, directory=tmp_path)


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text, **environ)
    return [str(problem).removeprefix(str(tmp_path / "hive.yaml")) for problem in caught.value.problems]


# What spec/routing-and-regions.md §7 lists, with the default that an absent key means here.
REFERENCE_TABLE = {
    "hive_id": None,
    "role": "worker",
    "wan.gateway_name": "RT.gateway",
    "wan.listen": None,
    "wan.uplinks": (),
    "wan.authorized_hives": (),
    "nats.mode": "embedded",
    "nats.port": 4222,
    "nats.url": None,
    "nats.storage_dir": None,
    "government.identity_frontdesk": None,
    "identity.default_tenant": "fluxbee",
    "identity.max_ilks": 8192,
    "identity.max_tenants": 1024,
    "identity.max_vocabulary": 4096,
    "identity.max_ilk_aliases": None,
    "identity.merge_alias_ttl_secs": 3600,
    "identity.sync.port": 9100,
    "identity.sync.upstream": None,
    "admin.listen": "127.0.0.1:8080",
    "architect.listen": "127.0.0.1:3000",
    "storage.path": None,
    "database.url": None,
    "blob.enabled": True,
    "blob.path": None,
    "blob.sync.enabled": True,  # design.md §5 overrules the reference's false
    "blob.sync.tool": "syncthing",
    "blob.sync.api_port": 8384,
    "blob.sync.data_dir": None,
    "blob.sync.service_user": "fluxbee",
    "blob.sync.allow_root_fallback": True,
    "blob.gc.enabled": False,
    "blob.gc.interval_secs": 3600,
    "blob.gc.apply": False,
    "blob.gc.staging_ttl_hours": 24,
    "blob.gc.active_retain_days": 30,
    "dist.path": None,
    "dist.sync.enabled": True,
    "dist.sync.tool": "syncthing",
    "ai_providers.openai.api_key": None,
    "ai_providers.openai.default_model": None,
    "ai_providers.openai.max_tokens": None,
    "ai_providers.openai.temperature": None,
    "ai_providers.openai.top_p": None,
}


@pytest.mark.parametrize(("name", "default"), REFERENCE_TABLE.items())
def test_every_reference_key_has_its_default(name: str, default: object) -> None:
    assert leaves(Settings)[name].default == default


OWN_NUMBERS = {
    "queues.frames": 4096,
    "queues.bytes": 4 << 20,
    "queues.pause_ms": 250,
    "queues.stall_ms": 50,
    "turns.rate_bytes_per_s": 4_000_000,
    "turns.burst_bytes": 64 << 20,
    "turns.daily_bytes": 2_000_000_000,
    "regions.disk_map_bytes": 16 << 30,
    "regions.tmpfs_map_bytes": 256 << 20,
    "limits.nodes": 1024,
    "security.local": "bound",
    "security.socket_mode": "0660",
    "security.socket_group": "fluxbee",
    "security.admin_nodes": (),
    "routing.static_override": False,
    "identity.auto_tenant": True,
    "world.listen": "127.0.0.1:3000",
    "world.open_registration": False,
    "planes": "auto",
}


@pytest.mark.parametrize(("name", "default"), OWN_NUMBERS.items())
def test_every_decision_has_its_default(name: str, default: object) -> None:
    assert leaves(Settings)[name].default == default


def test_every_key_is_described() -> None:
    assert [name for name, leaf in leaves(Settings).items() if not leaf.facts.description] == []


def test_every_number_is_bounded() -> None:
    numbers = (leaf for leaf in leaves(Settings).values() if "number" in leaf.expects)
    assert [leaf.name for leaf in numbers if leaf.facts.ge is None or leaf.facts.le is None] == []


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# nothing\n", "---\n", "~\n", "wan:\nblob:\n  gc:\n", "role:\n"]
)
def test_an_empty_file_is_an_unclaimed_worker(tmp_path: Path, text: str) -> None:
    found = read(tmp_path, text)
    assert found.settings == Settings()
    assert (found.settings.role, found.settings.hive_id) == ("worker", None)
    assert found.notices == ()


def test_no_file_at_all_is_an_unclaimed_worker(tmp_path: Path) -> None:
    found = load(None, environ={"FLUXBEE_ROOT": "here"}, directory=tmp_path)
    assert found.file is None
    assert found.settings == Settings(root=str(tmp_path / "here"))


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"gone\.yaml: the file does not exist"):
        load("gone.yaml", environ={}, directory=tmp_path)


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read: Is a directory"):
        load(tmp_path, environ={})


def test_the_usual_file_lies_below_root(tmp_path: Path) -> None:
    file = Paths(tmp_path / "r").hive_yaml
    file.parent.mkdir(parents=True)
    file.write_text("hive_id: edge-7\n")
    for found in (
        load(environ={"FLUXBEE_ROOT": "r"}, directory=tmp_path),
        load(environ={}, overrides={"root": str(tmp_path / "r")}),
    ):
        assert (found.settings.hive_id, found.file) == ("edge-7", str(file))


def test_precedence_and_sources(tmp_path: Path) -> None:
    file = tmp_path / "h.yaml"
    file.write_text("hive_id: a\n\nadmin:\n  listen: 127.0.0.1:1\nlog:\n  level: error\n  format: json\n")
    found = load(
        "h.yaml",
        environ={"JSR_ADMIN_LISTEN": "127.0.0.1:2", "JSR_LOG_LEVEL": "warn"},
        overrides={"log.level": "debug"},
        directory=tmp_path,
    )
    assert found.settings.hive_id == "a"
    assert found.settings.admin.listen == "127.0.0.1:2"
    assert (found.settings.log.level, found.settings.log.format) == ("debug", "json")
    assert str(found.source("hive_id")) == "h.yaml:1"
    assert str(found.source("log.format")) == "h.yaml:7"
    assert str(found.source("admin.listen")) == "environment JSR_ADMIN_LISTEN"
    assert str(found.source("log.level")) == "command line log.level"
    assert str(found.source("planes")) == "default"


def test_paths_are_absolute_after_loading(tmp_path: Path) -> None:
    settings = read(tmp_path, "root: ./var\nblob: {path: blobs}\n").settings
    assert settings.root == str(tmp_path / "var")
    assert settings.blob_dir == tmp_path / "blobs"
    assert settings.storage_dir == tmp_path / "var" / "lib"
    assert settings.dist_dir == tmp_path / "var" / "lib" / "dist"
    assert settings.paths.hive_yaml == tmp_path / "var" / "etc" / "hive.yaml"


def test_values_that_follow_others(tmp_path: Path) -> None:
    settings = read(tmp_path, "nats: {port: 4333}\nidentity: {max_ilks: 5}\n").settings
    assert settings.nats_url == "nats://127.0.0.1:4333"
    assert settings.max_ilk_aliases == 5
    assert settings.router_name == "RT.gateway"
    assert settings.frontdesk_name("edge") == "SY.frontdesk.gov@edge"
    assert settings.security.socket_mode_bits == 0o660
    given = read(
        tmp_path,
        "nats: {url: 'nats://10.0.0.1:1'}\nidentity: {max_ilk_aliases: 7}\nrouting: {router_name: RT.two}\n"
        "government: {identity_frontdesk: SY.desk@motherbee}\n",
    ).settings
    assert given.nats_url == "nats://10.0.0.1:1"
    assert (given.max_ilk_aliases, given.router_name) == (7, "RT.two")
    assert given.frontdesk_name("edge") == "SY.desk@motherbee"
    assert Settings().storage_dir == Path("/var/lib/fluxbee")


# --- roles and names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["role: motherbee", "role: Motherbee ", "role: motherbee\nhive_id: motherbee"]
)
def test_a_motherbee_is_called_motherbee(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).settings.hive_id == "motherbee"


def test_the_name_of_a_motherbee_comes_from_its_role(tmp_path: Path) -> None:
    assert str(read(tmp_path, "role: motherbee").source("hive_id")) == "default (role: motherbee)"


def test_a_motherbee_has_no_other_name(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "role: motherbee\nhive_id: edge\n")
    assert problem.startswith(":2: hive_id: a motherbee is called `motherbee`")


def test_the_name_is_reserved(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "hive_id: motherbee\n")
    assert "belongs to the motherbee" in problem


@pytest.mark.parametrize("hive_id", ["a", "A_b-9", "x" * 64, "0042", "no", "1e3", "null-1"])
def test_hive_ids(tmp_path: Path, hive_id: str) -> None:
    assert read(tmp_path, f"hive_id: {hive_id}\n").settings.hive_id == hive_id


@pytest.mark.parametrize("hive_id", ["''", "a.b", "a b", "ä", "x" * 65, "a/b", "[a]", "{a: b}"])
def test_not_hive_ids(tmp_path: Path, hive_id: str) -> None:
    (problem,) = problems(tmp_path, f"hive_id: {hive_id}\n")
    assert problem.startswith(":1: hive_id: found ")
    assert problem.endswith("expected 1 to 64 letters, digits, '_' or '-'")


# --- rules between keys ---------------------------------------------------------------------------


def test_admin_off_loopback_needs_a_token(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "admin: {listen: 0.0.0.0:8080}\n")
    assert "http.token" in problem
    assert read(tmp_path, "admin: {listen: 0.0.0.0:8080}\n", FLUXBEE_HTTP_TOKEN="t" * 16).settings.http.token
    assert problems(tmp_path, "", JSR_ADMIN_LISTEN="192.0.2.1:80")[0].startswith(
        "environment JSR_ADMIN_LISTEN:"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "box.local", "[::]", "localhost.example"])
def test_off_loopback(tmp_path: Path, host: str) -> None:
    assert "can be reached from outside" in problems(tmp_path, f"admin: {{listen: '{host}:8080'}}\n")[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_loopback_needs_none(tmp_path: Path, host: str) -> None:
    assert read(tmp_path, f"admin: {{listen: '{host}:8080'}}\n").settings.http.token is None


def test_world_off_loopback_needs_auth(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "world: {listen: '[::]:3000'}\n")
    assert "world.auth_enabled" in problem
    assert read(tmp_path, "world: {listen: '[::]:3000', auth_enabled: true}\n").settings.world.auth_enabled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nats: {mode: client}", "nats.url must name the server"),
        ("world: {listen: 127.0.0.1:8080}", "every door needs its own"),
        ("world: {limits: {single_bytes: 100, batch_bytes: 99}}", "at least world.limits.single_bytes (100)"),
        ("turns: {daily_bytes: 2000000}", "at least turns.burst_bytes"),
        ("queues: {stall_ms: 251}", "at most queues.pause_ms (250)"),
    ],
)
def test_rules(tmp_path: Path, text: str, words: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert words in problem


def test_two_doors_on_port_0_do_not_meet(tmp_path: Path) -> None:
    text = "admin: {listen: 127.0.0.1:0}\nworld: {listen: 127.0.0.1:0}\n"
    assert read(tmp_path, text).settings.world.listen == "127.0.0.1:0"


def test_a_rule_is_silent_about_a_key_that_is_wrong_already(tmp_path: Path) -> None:
    found = problems(tmp_path, "admin: {listen: 0.0.0.0:8080}\nhttp: {token: short}\n")
    assert len(found) == 1
    assert "http.token: found 5 characters" in found[0]


# --- notices --------------------------------------------------------------------------------------

INERT = [
    "nats: {storage_dir: /x}",
    "identity: {sync: {port: 9100}}",
    "identity: {sync: {upstream: 'm:9100'}}",
    "architect: {listen: 127.0.0.1:3000}",
    "blob: {sync: {tool: syncthing}}",
    "blob: {sync: {api_port: 8384}}",
    "blob: {sync: {data_dir: /x}}",
    "blob: {sync: {service_user: fluxbee}}",
    "blob: {sync: {allow_root_fallback: true}}",
    "dist: {sync: {tool: syncthing}}",
    "ai_providers: {openai: {default_model: m}}",
]


@pytest.mark.parametrize("text", INERT)
def test_a_key_without_effect_is_accepted_and_said(tmp_path: Path, text: str) -> None:
    (notice,) = read(tmp_path, text).notices
    assert (notice.code, notice.level, notice.source.line) == ("CONFIG_KEY_INERT", "notice", 1)


def test_database_url_is_read_with_a_warning_from_the_file_only(tmp_path: Path) -> None:
    url = "postgres://u:geheim@db:5432/x"
    (tmp_path / "hive.yaml").touch(mode=0o600)
    found = read(tmp_path, f"database: {{url: '{url}'}}\n")
    assert found.settings.database.url == url
    assert [notice.code for notice in found.notices] == ["CONFIG_DISCOURAGED"]
    by_environment = read(tmp_path, "", FLUXBEE_DATABASE_URL=url)
    assert (by_environment.settings.database.url, by_environment.notices) == (url, ())


def test_a_secret_that_everybody_can_read(tmp_path: Path) -> None:
    file = tmp_path / "hive.yaml"
    file.write_text("http: {token: 0123456789abcdef}\n")
    file.chmod(0o644)
    assert [notice.code for notice in load(file, environ={}).notices] == ["CONFIG_SECRET_READABLE"]
    file.chmod(0o640)
    assert load(file, environ={}).notices == ()


def test_a_file_that_is_gone_holds_no_readable_secret(tmp_path: Path) -> None:
    source = {"http.token": Source(kind="file", name="h.yaml", line=1)}
    assert list(notices(Settings(), source, {}, tmp_path / "gone")) == []


def test_relaxed_security_is_said(tmp_path: Path) -> None:
    found = read(tmp_path, "security: {local: open, admin_nodes: ['*']}\n")
    assert [notice.code for notice in found.notices] == ["CONFIG_SECURITY_RELAXED"] * 2


@pytest.mark.parametrize("name", ["FLUX_CONFIG", "FLUX_NAMESPACE_DB", "FLUX_CREDENTIALS_DB"])
def test_variables_without_effect_are_said(tmp_path: Path, name: str) -> None:
    (notice,) = read(tmp_path, "", **{name: "x"}).notices
    assert (notice.code, notice.key) == ("CONFIG_ENV_INERT", name)


# --- environment ----------------------------------------------------------------------------------

KEY32 = "A" * 43 + "="


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("JSR_ADMIN_LISTEN", "127.0.0.1:18080", "admin.listen", "127.0.0.1:18080"),
        ("JSR_ROUTER_NAME", "RT.main", "routing.router_name", "RT.main"),
        ("JSR_LOG_LEVEL", "WARN", "log.level", "warning"),
        ("JSR_LOG_LEVEL", "trace", "log.level", "debug"),
        ("JSR_ADMIN_ADD_HIVE_TIMEOUT_SECS", "7", "admin.timeouts.add_hive_s", 7),
        ("JSR_ADMIN_UPDATE_TIMEOUT_SECS", "7", "admin.timeouts.update_s", 7),
        ("JSR_ADMIN_SYNC_HINT_TIMEOUT_SECS", "7", "admin.timeouts.sync_hint_s", 7),
        ("JSR_ADMIN_INVENTORY_TIMEOUT_SECS", "7", "admin.timeouts.inventory_s", 7),
        ("JSR_ADMIN_TIMEOUT_SECS", "7", "admin.timeouts.light_s", 7),
        ("JSR_ADMIN_ORCH_TIMEOUT_SECS", "7", "admin.timeouts.action_s", 7),
        ("JSR_ADMIN_BROADCAST_TIMEOUT_SECS", "7", "admin.timeouts.broadcast_s", 7),
        ("JSR_ORCH_SYSTEM_FORWARD_TIMEOUT_SECS", "7", "orchestrator.forward_timeout_s", 7),
        ("ORCH_SYSTEM_ALLOWED_ORIGINS", "SY.a, ,WF.b", "orchestrator.allowed_origins", ("SY.a", "WF.b")),
        ("FLUX_AUTH_ENABLED", "Yes", "world.auth_enabled", True),
        ("FLUX_AUTH_ENABLED", "1", "world.auth_enabled", True),
        ("FLUX_AUTH_ENABLED", "OFF", "world.auth_enabled", False),
        ("FLUX_AUTH_ENABLED", "0", "world.auth_enabled", False),
        ("FLUX_ADMIN_TOKEN", "null", "world.admin_token", "null"),
        ("FLUX_ENCRYPTION_KEY", KEY32, "world.encryption_key", KEY32),
        ("FLUX_OAUTH_CALLBACK_BASE_URL", "https://b:1", "world.oauth.callback_base_url", "https://b:1"),
        ("FLUX_OAUTH_GITHUB_CLIENT_ID", "id", "world.oauth.github.client_id", "id"),
        ("FLUX_OAUTH_CALENDAR_CLIENT_SECRET", "s", "world.oauth.calendar.client_secret", "s"),
        ("FLUX_RATE_LIMIT_ENABLED", "no", "world.limits.enabled", False),
        ("FLUX_RATE_LIMIT_PER_NAMESPACE_PER_MINUTE", "5", "world.limits.per_namespace_per_minute", 5),
        ("FLUX_BODY_SIZE_LIMIT_SINGLE_BYTES", "5", "world.limits.single_bytes", 5),
        ("FLUX_BODY_SIZE_LIMIT_BATCH_BYTES", "2097152", "world.limits.batch_bytes", 2097152),
    ],
)
def test_variables_override_the_file(tmp_path: Path, name: str, text: str, key: str, value: object) -> None:
    found = read(tmp_path, "", **{name: text})
    (explained,) = found.explain(key)
    assert explained.source == Source(kind="environment", name=name)
    got: object = found.settings
    for part in key.split("."):
        got = getattr(got, part)
    assert got == value


@pytest.mark.parametrize(
    "name", ["JSR_ADMIN_LISTEN", "FLUX_ADMIN_TOKEN", "FLUX_AUTH_ENABLED", "FLUXBEE_ROOT"]
)
@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_is_unset(tmp_path: Path, name: str, text: str) -> None:
    assert read(tmp_path, "", **{name: text}).settings == Settings()


def test_the_first_variable_that_is_set_wins(tmp_path: Path) -> None:
    found = read(tmp_path, "", FLUXBEE_DATABASE_URL=" ", JSR_DATABASE_URL="postgres://b/x")
    assert found.settings.database.url == "postgres://b/x"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FLUX_AUTH_ENABLED", "ture"),
        ("FLUX_ENCRYPTION_KEY", "c2hvcnQ="),
        ("FLUX_ADMIN_TOKEN", "two words"),
        ("FLUX_BODY_SIZE_LIMIT_SINGLE_BYTES", "0"),
        ("JSR_LOG_LEVEL", "loud"),
        ("JSR_ADMIN_TIMEOUT_SECS", "5s"),
    ],
)
def test_a_variable_that_makes_no_sense_stops_the_start(tmp_path: Path, name: str, text: str) -> None:
    (problem,) = problems(tmp_path, "", **{name: text})
    assert problem.startswith(f"environment {name}: ")


# --- explain --------------------------------------------------------------------------------------


def test_explain_knows_every_key(tmp_path: Path) -> None:
    found = read(tmp_path, "")
    assert [row.key for row in found.explain()] == list(leaves(Settings))
    assert [row.key for row in found.explain("queues")] == [
        "queues.frames",
        "queues.bytes",
        "queues.pause_ms",
        "queues.stall_ms",
    ]
    assert found.explain("queue") == ()


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    text = "http: {token: geheim-0123456789}\ndatabase: {url: 'postgres://u:geheim@h/x'}\n"
    found = read(tmp_path, text, FLUX_ADMIN_TOKEN="geheim", FLUX_OAUTH_GITHUB_CLIENT_SECRET="geheim")
    shown = repr(found) + msgspec.json.encode(found.explain()).decode() + "".join(map(str, found.notices))
    assert "geheim" not in shown
    assert found.explain("http.token")[0].value == HIDDEN
    assert found.explain("world.encryption_key")[0].value is None


def test_a_wrong_secret_is_not_shown_either(tmp_path: Path) -> None:
    assert "geheim" not in "".join(
        problems(tmp_path, "http: {token: geheim}\nworld: {admin_token: 'geheim x'}")
    )


# --- what ships -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role"), [("development", "motherbee"), ("motherbee", "motherbee"), ("worker", "worker")]
)
def test_templates_load(name: str, role: str) -> None:
    found = load(REPOSITORY / "config" / f"{name}.yaml", environ={})
    assert found.settings.role == role


def test_development_is_relaxed_and_below_the_working_directory(tmp_path: Path) -> None:
    found = load(REPOSITORY / "config/development.yaml", environ={}, directory=tmp_path).settings
    assert found.security.admin_nodes == ("*",)
    assert found.wan.listen == "127.0.0.1:9000"
    assert found.root == str(tmp_path / "var")


def test_the_worker_of_add_hive_loads(tmp_path: Path) -> None:
    text = """\
hive_id: edge-07
role: worker
wan: {gateway_name: RT.gateway, uplinks: [{address: "10.20.0.1:9000"}]}
nats: {mode: embedded, port: 4222}
storage: {path: /var/lib/fluxbee}
government: {identity_frontdesk: SY.frontdesk.gov@motherbee}
identity: {sync: {upstream: "10.20.0.1:9100"}}
blob: {enabled: true, path: /var/lib/fluxbee/blob, sync: {enabled: true, tool: syncthing}}
dist: {path: /var/lib/fluxbee/dist, sync: {enabled: true, tool: syncthing}}
"""
    found = read(tmp_path, text)
    assert found.settings.wan.uplinks[0].address == "10.20.0.1:9000"
    assert {notice.key for notice in found.notices} == {
        "identity.sync.upstream",
        "blob.sync.tool",
        "dist.sync.tool",
    }


def test_a_bare_carriage_of_defaults_equals_no_file(tmp_path: Path) -> None:
    lines = ["hive_id: edge"]
    lines += [f"{name.split('.')[0]}:" for name in leaves(Settings) if "." in name]
    assert read(tmp_path, "\n".join(dict.fromkeys(lines))).settings == Settings(hive_id="edge")  # type: ignore[arg-type]
