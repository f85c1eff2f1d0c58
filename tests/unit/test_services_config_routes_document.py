"""``sy-config-routes.yaml``: what is written, what an operator may write, and what is refused by name."""

from __future__ import annotations

import os
import stat

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.services.config_routes.book import MAX_VERSION, RouteBook
from appliance.services.config_routes.document import edited, read_document, write_document
from appliance.wire.errors import FluxbeeError, Misconfigured
from appliance.wire.names import MatchKind
from appliance.wire.routes import RouteAction, RouteEntry, VpnEntry

BOOK = RouteBook(
    version=42,
    updated_at_ms=1_760_000_000_123,
    routes=(
        RouteEntry(
            prefix="AI.a.*", match_kind=MatchKind.GLOB, action=RouteAction.FORWARD, next_hop_hive="south"
        ),
        RouteEntry(prefix="WF", action=RouteAction.DROP, metric=5, priority=1),
    ),
    vpns=(VpnEntry(pattern="AI.é", match_kind=MatchKind.EXACT, vpn_id=4_294_967_295, priority=0),),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "etc" / "sy-config-routes.yaml"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_no_file_is_no_document(path):
    assert read_document(path) is None


def test_what_is_written_is_read_back(path):
    write_document(path, BOOK)
    assert read_document(path) == BOOK
    write_document(path, RouteBook())
    assert read_document(path) == RouteBook()


def test_the_shape_is_the_reference_s(path):
    write_document(path, BOOK)
    value = yaml.safe_load(path.read_text())
    assert list(value) == ["version", "updated_at", "routes", "vpns"]
    assert value["version"] == 42
    assert value["updated_at"] == "1760000000123"
    assert value["routes"][0] == {
        "prefix": "AI.a.*",
        "match_kind": "GLOB",
        "action": "FORWARD",
        "next_hop_hive": "south",
    }
    assert "next_hop_hive" not in value["routes"][1]
    assert value["vpns"] == [
        {"pattern": "AI.é", "match_kind": "EXACT", "vpn_id": 4_294_967_295, "priority": 0}
    ]
    assert "é" in path.read_text()


def test_it_is_replaced_whole_and_readable_for_all(path):
    write_document(path, BOOK)
    before = path.stat().st_ino
    write_document(path, RouteBook())
    assert path.stat().st_ino != before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == [path.name]


def test_an_operator_s_short_form_has_the_defaults(path):
    write(path, "routes:\n- {prefix: AI.a, action: DROP}\nvpns:\n- {pattern: AI.b, vpn_id: 3}\n")
    book = read_document(path)
    assert (book.version, book.updated_at_ms) == (1, 0)
    assert book.routes == (RouteEntry(prefix="AI.a", action=RouteAction.DROP),)
    assert book.vpns == (VpnEntry(pattern="AI.b", vpn_id=3),)


@pytest.mark.parametrize(
    "text", ["version: 7\n", "version: 7\nroutes:\nvpns: []\n", "version: 7\nroutes: ~\n"]
)
def test_missing_and_empty_lists_are_empty(path, text):
    write(path, text)
    assert read_document(path) == RouteBook(version=7)


@pytest.mark.parametrize(
    ("stamp", "found"),
    [("'17'", 17), ("17", 17), ("yesterday", 0), ("-5", 0), ("1.5", 0), ("~", 0), ("9" * 30, 0), ("٣", 3)],
)
def test_the_stamp_is_for_display_and_never_an_error(path, stamp, found):
    write(path, f"version: 1\nupdated_at: {stamp}\n")
    assert read_document(path).updated_at_ms == found


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "expected version"),
        ("[]", "expected version"),
        ("just words", "expected version"),
        ("version: 0", "version"),
        ("version: -1", "version"),
        ("version: true", "version"),
        ("version: '3'", "version"),
        ("version: 1.0", "version"),
        (f"version: {MAX_VERSION + 1}", "version"),
        ("version: 1\nroutes: {}\nvpns: 3", "vpns"),
        ("version: 1\nroutes: [{prefix: AI.a, action: drop}]", "routes[0]"),
        ("version: 1\nroutes: [{prefix: AI.a, action: DROP}, {prefix: b}]", "routes[1]"),
        ("version: 1\nvpns: [{pattern: AI.a, vpn_id: -1}]", "vpns[0]"),
        ("version: 1\nvpns: [{pattern: AI.a, vpn_id: 1, colour: red}]", "colour"),
        ("version: [", "not YAML"),
        ("\0", "not YAML"),
        (b"\xff\xfe\x00\x01garbage", "not YAML"),
        (b"version: 1 # \xe9", "not YAML"),
        ("[" * 3000, "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("a: !!int ''", "not YAML"),
        ("a: !!bool maybe", "not YAML"),
        ("a: !!python/object/apply:os.system [true]", "not YAML"),
        ("a: 2024-99-99", "not YAML"),
        ("version: " + "9" * 5000, "not YAML"),
        ("#" * (5 << 20), "bytes"),
    ],
)
def test_a_wrong_file_is_refused_by_name_with_a_remedy(path, text, word):
    write(path, text)
    with pytest.raises(Misconfigured) as caught:
        read_document(path)
    assert str(path) in str(caught.value)
    assert word in str(caught.value)
    assert "remove it" in caught.value.remedy
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", ["directory", "file above"])
def test_what_cannot_be_read_or_written_is_an_error_of_ours(path, kind):
    if kind == "directory":
        path.mkdir(parents=True)
    else:
        path.parent.write_text("in the way")
    with pytest.raises(FluxbeeError):
        read_document(path)
    with pytest.raises(FluxbeeError):
        write_document(path, BOOK)


@pytest.mark.parametrize(
    ("version", "same", "result"),
    [(41, False, False), (42, False, True), (43, False, True), (41, True, False), (99, True, False)],
)
def test_other_lists_under_the_version_in_force_or_a_higher_one_are_an_edit(version, same, result):
    routes = BOOK.routes if same else ()
    found = RouteBook(version=version, routes=routes, vpns=BOOK.vpns)
    assert edited(found, BOOK) is result


def test_no_file_is_no_edit():
    assert not edited(None, BOOK)


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=60).filter(
    lambda text: len(text.encode()) <= 256
)


@given(
    st.builds(
        RouteBook,
        version=st.integers(1, MAX_VERSION),
        updated_at_ms=st.integers(0, 10**15),
        routes=st.lists(
            st.builds(
                RouteEntry,
                prefix=names,
                match_kind=st.sampled_from(MatchKind),
                action=st.sampled_from(RouteAction),
                metric=st.integers(0, 2**32 - 1),
                priority=st.integers(0, 2**16 - 1),
            ),
            max_size=4,
        ).map(tuple),
        vpns=st.lists(st.builds(VpnEntry, pattern=names, vpn_id=st.integers(0, 2**32 - 1)), max_size=4).map(
            tuple
        ),
    )
)
@settings(max_examples=60, deadline=None)
def test_every_document_survives_its_file(tmp_path_factory, book):
    path = tmp_path_factory.mktemp("etc") / "routes.yaml"
    write_document(path, book)
    assert read_document(path) == book


@pytest.mark.parametrize("name", ["a\x85b", "\u2028", "é\u2029", "AI.größe", "- {", "#", "null"])
def test_odd_names_survive_the_file(tmp_path, name):
    book = RouteBook(vpns=(VpnEntry(pattern=name, vpn_id=1),))
    write_document(tmp_path / "routes.yaml", book)
    assert read_document(tmp_path / "routes.yaml") == book


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise_anything_but_our_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("etc") / "routes.yaml"
    path.write_bytes(data)
    try:
        words = str(read_document(path) and path)
    except FluxbeeError as error:
        words = str(error)
    assert str(path) in words
