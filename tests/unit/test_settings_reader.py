"""What is said about mistakes in hive.yaml: line, key, what was found, what is expected, the nearest key."""

from __future__ import annotations

import difflib
import tempfile

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.settings import Settings, SettingsError, load
from appliance.settings.keys import leaves, section_names
from appliance.settings.problems import MAX_SHOWN_PROBLEMS
from appliance.settings.reader import Reading, nearest_key
from appliance.settings.yamlnodes import MAX_DOCUMENT_BYTES, parse


def read(data: str | bytes) -> Reading:
    """Everything that the file part of ``load`` does, without the file."""
    reading = Reading(Settings)
    root, problems = parse(data if isinstance(data, bytes) else data.encode(), "h.yaml")
    reading.problems.extend(problems)
    if root is not None:
        reading.read_document(root)
    return reading


def told(data: str | bytes) -> list[str]:
    return [str(problem) for problem in read(data).problems]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wan: {lisen: x}", "h.yaml:1: wan.lisen: unknown key; the nearest key is wan.listen"),
        ("hive-id: x", "h.yaml:1: hive-id: unknown key; the nearest key is hive_id"),
        ("Role: worker", "h.yaml:1: Role: unknown key; the nearest key is role"),
        ("\ngateway_name: x", "h.yaml:2: gateway_name: unknown key; the nearest key is wan.gateway_name"),
        ("blob: {gc: {aply: true}}", "h.yaml:1: blob.gc.aply: unknown key; the nearest key is blob.gc.apply"),
        ("static_override: true", "unknown key; the nearest key is routing.static_override"),
        ("secruity: {}", "unknown key; the nearest key is security"),
        ("<<: {}", "h.yaml:1: <<: unknown key; the nearest key is "),
        ("wan: {uplinks: [{adress: 'a:1'}]}", "unknown key; the nearest key is wan.uplinks[0].address"),
        ("wan: {uplinks: [{}]}", "h.yaml:1: wan.uplinks[0].address: is missing; expected host:port"),
        ("wan: {uplinks: [a]}", "wan.uplinks[0]: found a; expected a section with address"),
        ("wan: 3", "h.yaml:1: wan: found 3; expected a section with gateway_name, listen, "),
        ("[1]", "h.yaml:1: found a list of 1; expected keys and values"),
        ("word", "h.yaml:1: found word; expected keys and values"),
        ("nats: {port: 65536}", "nats.port: found 65536; expected a whole number from 1 to 65535"),
        ("nats: {port: 0}", "nats.port: found 0; expected a whole number from 1 to 65535"),
        ("nats: {port: '80'}", 'nats.port: found "80", a text in quotes; expected a whole number'),
        (
            "nats: {port: 0123}",
            "found 0123, which YAML programs read differently because of its leading zero",
        ),
        ("nats: {port: 12:30}", "nats.port: found 12:30; expected a whole number"),
        ("nats: {port: 1.0}", "nats.port: found 1.0; expected a whole number"),
        ("nats: {port: " + "9" * 5000 + "}", "nats.port: found " + "9" * 40 + "…; expected a whole number"),
        ("nats: {port: [80]}", "nats.port: found a list of 1; expected a whole number"),
        ("nats: {port: {a: 1}}", "nats.port: found a section; expected a whole number"),
        ("blob: {enabled: 1}", "blob.enabled: found 1; expected true or false"),
        ("blob: {enabled: 'true'}", 'blob.enabled: found "true"; expected true or false'),
        ("role: mother", "role: found mother; expected one of motherbee, worker"),
        ("wan: {listen: 9000}", "wan.listen: found 9000; expected host:port"),
        ("wan: {listen: 'h:99999'}", "expected host:port"),
        ("wan: {uplinks: [{address: 'h:0'}]}", 'wan.uplinks[0].address: found "h:0"; expected host:port'),
        ("wan: {authorized_hives: a}", "wan.authorized_hives: found a; expected a list, each item 1 to 64"),
        ("wan: {authorized_hives: [a, 'b c']}", 'wan.authorized_hives[1]: found "b c"; expected 1 to 64'),
        ("wan: {authorized_hives: [~]}", "wan.authorized_hives[0]: found ~; expected 1 to 64"),
        ("security: {socket_mode: 0999}", "security.socket_mode: found 0999; expected octal permissions"),
        (
            "security: {system_uids: [-1]}",
            "security.system_uids[0]: found -1; expected a whole number from 0",
        ),
        ("ai_providers: {openai: {top_p: .nan}}", "found .nan; expected a number from 0 to 1"),
        ("ai_providers: {openai: {top_p: 1.5}}", "found 1.5; expected a number from 0 to 1"),
        ("root: ''", 'root: found ""; expected a file system path'),
        ('root: "a\\nb"', "root: found "),
        ("a: 1\nhive_id: x\nhive_id: y", "h.yaml:3: hive_id: the key stands twice; first in line 2"),
        ("wan: {listen: !!str x}\n? [a]\n: b", "h.yaml:2: a key must be a plain word"),
        ("hive_id: !!int 3", "h.yaml:1: hive_id: tags such as !!int have no meaning here"),
        ("hive_id: !!python/name:os.system x", "tags such as !!python/name:os.system have no meaning here"),
        ("a: &x [*x]", "contains itself through an alias"),
        ("a: *nope", "h.yaml:1: not YAML: found undefined alias"),
        ("a: b\n c: d", "h.yaml:2: not YAML: mapping values are not allowed here"),
        ("a: [", "h.yaml:1: not YAML: "),
        ("a: 1\n---\nb: 2", "h.yaml:2: not YAML: expected a single document"),
        (b"a: 1\nb: \xff", "h.yaml:2: the file is not UTF-8"),
        (b"a: \x00", "h.yaml: not YAML: "),
        ('a: "\\U00110000"', "h.yaml: not YAML: "),
        ("[" * 20_000, "nested too deeply"),
        (b" " * (MAX_DOCUMENT_BYTES + 1), "larger than 1048576 bytes"),
    ],
)
def test_messages(text: str | bytes, message: str) -> None:
    assert any(message in line for line in told(text)), told(text)[:3]


def test_every_mistake_is_told_at_once() -> None:
    text = "hive_id: ä\nwan:\n  lisen: 1\nnats: {port: x}\nrole: boss\nnats: 4\n"
    assert [line.split(":")[1] for line in told(text)] == ["6", "1", "3", "4", "5"]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("hive_id: no", "hive_id", "no"),
        ("hive_id: 0042", "hive_id", "0042"),
        ("hive_id: 1_000", "hive_id", "1_000"),
        ("hive_id: 2026-01-01", "hive_id", "2026-01-01"),
        ("role: WORKER", "role", "worker"),
        ("blob: {enabled: off}", "enabled", False),
        ("blob: {enabled: On}", "enabled", True),
        ("blob: {enabled: no}", "enabled", False),
        ("nats: {port: 4_333}", "port", 4333),
        ("security: {socket_mode: 0600}", "socket_mode", "0600"),
        ("security: {socket_mode: '600'}", "socket_mode", "600"),
        ("ai_providers: {openai: {temperature: 1}}", "temperature", 1.0),
        ("ai_providers: {openai: {temperature: 1e0}}", "temperature", 1.0),
        ("a: &p 4333\nnats: {port: *p}", "port", 4333),
        ("\ufeffhive_id: bom", "hive_id", "bom"),
        ("wan: {authorized_hives: [on, 1]}", "authorized_hives", ("on", "1")),
    ],
)
def test_the_type_of_a_key_decides_what_a_word_means(text: str, key: str, value: object) -> None:
    def find(tree: dict[str, object]) -> object:
        for name, below in tree.items():
            got = find(below) if isinstance(below, dict) else below if name == key else None
            if got is not None:
                return got
        return None

    assert find(read(text).values) == value


def test_a_shared_alias_does_not_unfold() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert len(told("\n".join(lines))) == 12  # twelve unknown keys, and not 10^12 items


def test_a_file_full_of_unknown_keys_is_answered_soon() -> None:
    text = "".join(f"unknown_{n}: 1\n" for n in range(5000))
    with pytest.raises(SettingsError) as caught:
        load_text(text)
    assert len(caught.value.problems) == MAX_SHOWN_PROBLEMS
    assert str(caught.value).endswith("\nand more")


def load_text(text: str) -> None:
    reading = read(text)
    if reading.problems:
        raise SettingsError(tuple(reading.problems))


EVERY_KEY = [*leaves(Settings), *section_names(Settings)]


@given(st.sampled_from(EVERY_KEY), st.data())
def test_one_wrong_letter_still_finds_the_key(name: str, data: st.DataObject) -> None:
    section, dot, word = name.rpartition(".")
    if len(word) < 5:
        return
    place = data.draw(st.integers(0, len(word) - 1))
    letter = data.draw(st.sampled_from("xq-7"))
    wrong = section + dot + word[:place] + letter + word[place + 1 :]
    siblings = [key for key in EVERY_KEY if key.rpartition(".")[0] == section]
    found = nearest_key(wrong, Settings, siblings)
    if wrong not in EVERY_KEY:
        best = max(difflib.SequenceMatcher(None, word, key.rpartition(".")[2]).ratio() for key in siblings)
        assert difflib.SequenceMatcher(None, word, found.rpartition(".")[2]).ratio() >= best - 0.4
        assert found.rpartition(".")[0] == section


@given(st.text(st.characters(codec="utf-8"), max_size=300))
@example("")
@example(".")
@example("a" * 300)
def test_every_unknown_key_names_a_real_one(key: str) -> None:
    assert nearest_key(key, Settings) in EVERY_KEY


@given(st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,30}", fullmatch=True))
def test_a_random_key_is_told_with_a_real_neighbour(key: str) -> None:
    for prefix, text in (("", f"{key}: 1"), ("wan.", f"wan: {{{key}: 1}}")):
        if prefix + key in EVERY_KEY:
            continue
        (line,) = told(text)
        assert line.startswith(f"h.yaml:1: {prefix}{key}: unknown key; the nearest key is ")
        assert line.rpartition(" ")[2] in EVERY_KEY


YAMLISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(EVERY_KEY) | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
SECTIONED = st.dictionaries(
    st.sampled_from([name for name in EVERY_KEY if "." not in name]),
    YAMLISH
    | st.dictionaries(st.sampled_from([name.rpartition(".")[2] for name in EVERY_KEY]), YAMLISH, max_size=5),
    max_size=5,
)


@given(YAMLISH | SECTIONED)
def test_any_document_is_accepted_or_told(tree: object) -> None:
    loads_or_tells(yaml.safe_dump(tree, allow_unicode=True).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
@example(b"\xef\xbb\xbf")
@example(b"%YAML 9.9\n---\n")
@example(b'"\\ud800"')
@example(b"&a &b c")
@example(b"? ")
def test_any_bytes_are_accepted_or_told(data: bytes) -> None:
    loads_or_tells(data)


@given(
    st.lists(
        st.sampled_from(
            [*"[]{}:,-?&*!|>'\"%@`#\n\t ~", "- ", ": ", "hive_id", "wan", "listen", "&a", "*a", "<<", "!!"]
        ),
        max_size=40,
    )
)
def test_any_run_of_yaml_signs_is_accepted_or_told(signs: list[str]) -> None:
    loads_or_tells("".join(signs).encode())


def loads_or_tells(data: bytes) -> None:
    """Through the front door, with a real file."""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data)
        file.flush()
        try:
            found: Settings | SettingsError = load(file.name, environ={}).settings
        except SettingsError as refused:
            found = refused
    assert isinstance(found, Settings) or (file.name in str(found) and found.problems)
