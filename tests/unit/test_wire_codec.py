from __future__ import annotations

import contextlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.wire.codec import (
    DECODE_ERRORS,
    Parsed,
    RejectedFrame,
    encode_into,
    fast_decode,
    parse_frame,
    render,
    stamp_meta,
)
from appliance.wire.frames import MAX_FRAME_BYTES
from tests.envelopes import META, ROUTING, TOP, Envelope, duplicates, envelopes, go_reads, python_reads

UUID = "5b0d1c2e-7f0e-4b7c-8a53-3f0d7b1f6a10"
NAME = "AI.a@north"
ADDED = b'"action_class":"send_message",'
frames = envelopes(UUID, st.none() | st.text(st.characters(codec="utf-8"), max_size=6))


def envelope(**changes: str) -> bytes:
    """A canonical frame; ``routing``, ``meta``, ``payload``, ``top`` are put in as they are written."""
    routing = changes.get("routing", f'"src":"{UUID}","dst":null,"ttl":16,"trace_id":"t"')
    meta = changes.get("meta", '"type":"user"')
    payload = changes.get("payload", "null")
    tail = changes.get("top", "")
    return f'{{"routing":{{{routing}}},"meta":{{{meta}}},"payload":{payload}{tail}}}'.encode()


def deliver(parsed: Parsed, added: bytes = b"") -> bytes:
    """What leaves when the sender is NAME and ``added`` is stamped."""
    message, _, extras = parsed
    message.routing.src_l2_name = NAME
    if added:
        message.meta = stamp_meta(message.meta, added)
    return render(message, extras)


def refused(frame: bytes, *, trusted: bool = False) -> str:
    with pytest.raises(RejectedFrame) as caught:
        parse_frame(frame, trusted=trusted)
    return caught.value.reason


# --- what is legal comes through with its meaning ----------------------------------------------------------


def check_delivery(sent: Envelope) -> None:
    """Everybody reads from what leaves what the sender meant, and payload and meta are the sender's bytes."""
    body = deliver(parse_frame(sent.frame))
    for reads in (python_reads, go_reads):
        got = reads(body)
        assert got.pop("routing") == {**sent.routing, "src_l2_name": NAME, **sent.routing_extras}
        assert got.pop("meta") == sent.meta
        assert got == {"payload": json.loads(sent.payload_text), **sent.extras}
    assert duplicates(body) == []
    assert b'"payload":' + sent.payload_text.encode() in body


def check_stamping(sent: Envelope) -> None:
    """What is inserted comes first in meta, the sender's meta follows, and the next hop takes the result."""
    added = b"" if "action_class" in sent.meta else ADDED
    body = deliver(parse_frame(sent.frame), added)
    assert b'"meta":{' + added in body
    if sent.plain:
        assert b'"meta":{' + added + sent.meta_text[1:].encode() in body
    assert python_reads(body)["meta"] == {"action_class": "send_message", **sent.meta}
    again, _, _ = parse_frame(body, trusted=True)
    assert again.routing.src_l2_name is msgspec.UNSET
    assert bytes(again.payload) == sent.payload_text.encode()


def check_types(sent: Envelope) -> None:
    """The typed meta that the router decides by is what is written."""
    _, meta, _ = parse_frame(sent.frame)
    assert meta.type == sent.meta["type"]
    for key in ("thread_id", "msg", "scope", "target", "action_class"):
        value = getattr(meta, key)
        assert sent.meta.get(key) == (None if value is msgspec.UNSET else value)


def check_proof_of_canonicity(sent: Envelope) -> None:
    """Equal length means the same characters and the same meaning, or the fast lane must not take a frame."""
    scratch = bytearray()
    try:
        encode_into(fast_decode(sent.frame), scratch)
    except DECODE_ERRORS:
        return
    if len(scratch) == len(sent.frame):
        assert sorted(scratch) == sorted(sent.frame)
        assert python_reads(bytes(scratch)) == python_reads(sent.frame)


def check_all(sent: Envelope) -> None:
    check_delivery(sent)
    check_stamping(sent)
    check_types(sent)
    check_proof_of_canonicity(sent)


@settings(max_examples=100)
@given(frames)
def test_every_way_of_writing_delivers_the_same_meaning(sent: Envelope) -> None:
    check_all(sent)


@pytest.mark.slow
@settings(max_examples=2000)
@given(frames)
def test_very_many_ways_of_writing_deliver_the_same_meaning(sent: Envelope) -> None:
    check_all(sent)


def test_known_keys_leave_in_the_reference_order() -> None:
    frame = (
        f'{{"payload":1,"z":2,"meta":{{"type":"user"}},'
        f'"routing":{{"q":3,"trace_id":"t","ttl":16,"dst":null,"src":"{UUID}"}}}}'
    )
    assert (
        deliver(parse_frame(frame.encode()))
        == (
            f'{{"routing":{{"src":"{UUID}","src_l2_name":"{NAME}","dst":null,"ttl":16,"trace_id":"t","q":3}},'
            f'"meta":{{"type":"user"}},"payload":1,"z":2}}'
        ).encode()
    )


def test_a_missing_payload_becomes_null() -> None:
    frame = envelope().replace(b',"payload":null', b"")
    assert python_reads(deliver(parse_frame(frame)))["payload"] is None


# --- what a sender may not say ------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ['"SY.admin@north"', "null", '"\\u0053Y.admin@north"', "5", "{}"])
def test_the_senders_own_l2_name_never_leaves(written: str) -> None:
    routing = f'"src":"{UUID}","src_l2_name":{written},"dst":null,"ttl":16,"trace_id":"t"'
    message, _, extras = parse_frame(envelope(routing=routing), trusted=True)
    assert "src_l2_name" not in python_reads(render(message, extras))["routing"]


def test_sequence_and_memory_of_an_ordinary_sender_are_dropped() -> None:
    meta = '"thread_seq":9,"type":"user","memory_package":{"a":1},"thread_id":"x"'
    assert python_reads(deliver(parse_frame(envelope(meta=meta))))["meta"] == {
        "type": "user",
        "thread_id": "x",
    }


def test_sequence_and_memory_of_the_appliance_are_kept() -> None:
    meta = '"thread_seq":9,"type":"user","memory_package":{"a": 1}'
    parsed = parse_frame(envelope(meta=meta), trusted=True)
    assert b'"memory_package":{"a": 1}' in deliver(parsed)
    assert parsed[1].thread_seq == 9  # type: ignore[attr-defined]


@pytest.mark.parametrize("meta", ['"thread_seq":"x"', '"memory_package":[1]', '"thread_seq":-1'])
def test_what_is_dropped_need_not_even_be_well_typed(meta: str) -> None:
    parse_frame(envelope(meta=f'"type":"user",{meta}'))
    assert refused(envelope(meta=f'"type":"user",{meta}'), trusted=True) == "bad_type"


def lookalikes(key: str) -> list[str]:
    """Keys that some decoder takes for ``key``."""
    made = [key.upper(), key.title(), key[0].upper() + key[1:], key + "\0", key + "\0x"]
    made += [key.replace(plain, odd) for plain, odd in ("sſ", "kK", "iı", "iİ", "Sſ")]
    made += [key.upper().replace("S", "ſ").replace("K", "K")]
    return [one for one in made if one != key]


@pytest.mark.parametrize(
    ("where", "key"),
    [("top", key) for key in TOP] + [("routing", key) for key in ROUTING] + [("meta", key) for key in META],
)
def test_lookalikes_are_refused_in_every_object(where: str, key: str) -> None:
    for odd in lookalikes(key):
        for written in (json.dumps(odd), json.dumps(odd, ensure_ascii=False)):
            if "\0" in written:
                continue
            pair = f"{written}:null"
            frame = {
                "top": envelope(top=f",{pair}"),
                "routing": envelope(routing=f'"src":"{UUID}",{pair},"dst":null,"ttl":16,"trace_id":"t"'),
                "meta": envelope(meta=f'{pair},"type":"user"'),
            }[where]
            for trusted in (False, True):
                assert refused(frame, trusted=trusted) == "lookalike_key", written


def test_lookalikes_deeper_inside_are_nobodys_business() -> None:
    inside = '{"Routing":{"SRC":1},"Type":2,"type":3,"type":4}'
    body = deliver(parse_frame(envelope(meta=f'"type":"user","context":{inside}', payload=inside)))
    assert body.count(inside.encode()) == 2


DUPLICATES = {
    "src": '"src":"x","src":"UUID","dst":null,"ttl":16,"trace_id":"t"',
    "dst": '"src":"UUID","dst":null,"dst":null,"ttl":16,"trace_id":"t"',
    "ttl": '"src":"UUID","dst":null,"ttl":16,"ttl":16,"trace_id":"t"',
    "trace_id": '"src":"UUID","dst":null,"ttl":16,"trace_id":"t","trace_id":""',
    "unknown": '"src":"UUID","dst":null,"ttl":16,"trace_id":"t","q":1,"q":1',
    "stamp": '"src":"UUID","src_l2_name":"a","src_l2_name":"a","dst":null,"ttl":16,"trace_id":"t"',
    "escaped": '"src":"UUID","dst":null,"t\\u0074l":1,"ttl":16,"trace_id":"t"',
    "escaped slash": '"src":"UUID","dst":null,"ttl":16,"trace_id":"t","a/":1,"a\\/":1',
}


@pytest.mark.parametrize("routing", DUPLICATES.values(), ids=DUPLICATES.keys())
def test_duplicates_in_routing_are_refused(routing: str) -> None:
    assert refused(envelope(routing=routing.replace("UUID", UUID))) == "duplicate_key"


@pytest.mark.parametrize(
    "meta",
    [
        '"type":"user","type":"user"',
        '"type":"user","t\\u0079pe":"system"',
        '"t\\u0079pe":"user","type":"system"',
        '"type":"user","msg":null,"msg":"x"',
        '"type":"user","thread_seq":1,"thread_seq":2',
        '"type":"user","context":{},"context":{}',
        '"type":"user","q":1,"\\u0071":1',
    ],
)
@pytest.mark.parametrize("space", ["", " "])
def test_duplicates_in_meta_are_refused(meta: str, space: str) -> None:
    frame = envelope(meta=meta + space)
    assert refused(frame) == refused(frame, trusted=True) == "duplicate_key"


@pytest.mark.parametrize(
    "top",
    [
        ',"payload":1',
        ',"payl\\u006fad":1',
        ',"meta":{"type":"system"}',
        ',"routing":{"src":"x","dst":null,"ttl":1,"trace_id":"t"}',
        ',"x":1,"x":1',
    ],
)
def test_duplicates_on_top_are_refused(top: str) -> None:
    assert refused(envelope(top=top)) == "duplicate_key"


def test_a_duplicate_that_makes_up_for_lost_bytes_elsewhere_is_refused() -> None:
    # Equal length proves that a frame is canonical only if nothing can be written longer than it was read.
    for odd in ("\\/", "\\u0041", "\\u00e9", "\\ud83d\\ude00", "\x7f", "\u2028", "\u0085"):
        for extra in ("", '"scope":"a","scope":"b",'):
            frame = envelope(meta=f'{extra}"type":"{odd}"')
            if extra:
                assert refused(frame) == "duplicate_key"
            else:
                assert duplicates(deliver(parse_frame(frame))) == []


# --- types, numbers, words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ttl", "read"), [("0", 0), ("255", 255), ("-0", 0), (" 7 ", 7)])
def test_hop_budgets(ttl: str, read: int) -> None:
    frame = envelope(routing=f'"src":"{UUID}","dst":null,"ttl":{ttl},"trace_id":"t"')
    body = deliver(parse_frame(frame))
    assert python_reads(body)["routing"]["ttl"] == read
    assert f'"ttl":{read},'.encode() in body


@pytest.mark.parametrize(
    "ttl",
    [
        "16.0",
        "1e1",
        "1E2",
        "-1",
        "256",
        "65536",
        "99999999999999999999",
        "true",
        "null",
        '"16"',
        "[]",
        "0.0",
        "-0.0",
    ],
)
@pytest.mark.parametrize("extra", ["", ',"unknown":1'], ids=["strict", "loose"])
def test_anything_else_is_no_hop_budget(ttl: str, extra: str) -> None:
    frame = envelope(routing=f'"src":"{UUID}","dst":null,"ttl":{ttl},"trace_id":"t"{extra}')
    assert refused(frame) == "bad_type"


@pytest.mark.parametrize("key", ["src", "dst", "ttl", "trace_id"])
def test_routing_keys_are_required(key: str) -> None:
    values = {"src": f'"{UUID}"', "dst": "null", "ttl": "16", "trace_id": '"t"'}
    del values[key]
    routing = ",".join(f'"{name}":{value}' for name, value in values.items())
    assert refused(envelope(routing=routing)) == ("missing_key" if key == "dst" else "bad_type")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b'{"meta":{"type":"user"},"payload":"%b"}' % (b"x" * 50), "missing_key"),
        (envelope().replace(b'"meta":{"type":"user"},', b""), "missing_key"),
        (envelope(meta=""), "bad_type"),
        (envelope(meta='"type":null'), "bad_type"),
        (envelope(meta='"type":1'), "bad_type"),
        (envelope(meta='"type":"user","msg":1'), "bad_type"),
        (envelope(meta='"type":"user","thread_id":1'), "bad_type"),
        (envelope().replace(b'{"type":"user"}', b"[]"), "bad_json"),
        (envelope().replace(b'{"type":"user"}', b"null"), "bad_json"),
        (envelope().replace(b'"routing":{', b'"routing":[{').replace(b'},"meta"', b'}],"meta"'), "bad_json"),
    ],
)
def test_what_is_missing_or_of_another_type_is_refused(frame: bytes, reason: str) -> None:
    assert refused(frame) == reason


CLASSES = [
    "send_message",
    "read",
    "write",
    "system_config",
    "topology_change",
    "external_action",
    "identity_change",
    "workflow_step",
    "node_lifecycle",
]


@pytest.mark.parametrize("key", ["action_class", "action_result"])
def test_words_of_a_closed_set(key: str) -> None:
    for word in {"action_class": CLASSES, "action_result": ["blocked", "applied", "failed"]}[key]:
        assert python_reads(deliver(parse_frame(envelope(meta=f'"type":"user","{key}":"{word}"'))))
    for word in ("", "Read", "delete", "send_message "):
        assert refused(envelope(meta=f'"type":"user","{key}":"{word}"')) == "bad_type"


@pytest.mark.parametrize("key", ["thread_seq", "ctx_seq"])
@pytest.mark.parametrize(
    ("number", "legal"),
    [("0", True), (str(2**64 - 1), True), (str(2**64), False), ("-1", False), ("1.0", False), ("1e3", False)],
)
def test_sequence_numbers_have_64_bits(key: str, number: str, legal: bool) -> None:
    frame = envelope(meta=f'"type":"user","{key}":{number}')
    if legal:
        assert f'"{key}":{number}'.encode() in deliver(parse_frame(frame, trusted=True))
    else:
        assert refused(frame, trusted=True) == "bad_type"


def test_ctx_window_entries_are_typed() -> None:
    turn = '{"seq":1,"ts":"","from":"","type":"","text":""}'
    assert turn.encode() in deliver(parse_frame(envelope(meta=f'"type":"user","ctx_window":[{turn}]')))
    assert refused(envelope(meta='"type":"user","ctx_window":[{"seq":1}]')) == "bad_type"


@pytest.mark.parametrize("number", ["1" * 60_000, "-" + "9" * 5000, "0." + "1" * 5000, "1e" + "9" * 5000])
@pytest.mark.parametrize("extra", ["", ',"unknown":1'], ids=["strict", "loose"])
def test_huge_numbers_are_text(number: str, extra: str) -> None:
    body = deliver(parse_frame(envelope(payload=f"[{number}]", top=extra)))
    assert f'"payload":[{number}]'.encode() in body


# --- bytes that are no text, text that is no JSON -----------------------------------------------------------

BAD_UTF8 = [
    b"\xff",
    b"\x80",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\xf8\x88\x80\x80\x80",
]
PLACES = {
    "src": envelope(routing='"src":"@","dst":null,"ttl":16,"trace_id":"t"'),
    "dst": envelope(routing=f'"src":"{UUID}","dst":"@","ttl":16,"trace_id":"t"'),
    "trace_id": envelope(routing=f'"src":"{UUID}","dst":null,"ttl":16,"trace_id":"@"'),
    "routing key": envelope(routing=f'"src":"{UUID}","dst":null,"ttl":16,"trace_id":"","@":1'),
    "meta value": envelope(meta='"type":"@"'),
    "meta key": envelope(meta='"type":"user","@":1'),
    "context": envelope(meta='"type":"user","context":{"@":["@"]}'),
    "memory": envelope(meta='"type":"user","memory_package":{"a":"@"}'),
    "payload": envelope(payload='"@"'),
    "payload key": envelope(payload='{"@":1}'),
    "top key": envelope(top=',"@":1'),
    "top value": envelope(top=',"x":"@"'),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_bad_utf8_is_refused_wherever_it_is(place: bytes) -> None:
    for bad in BAD_UTF8:
        assert refused(place.replace(b"@", bad)) == "bad_utf8"
    for bad in (b"\xff", b"\x80 "):
        assert refused(bad + place) == refused(place + bad) == "bad_utf8"


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("surrogate", ["\\ud800", "\\udc00", "\\ud83dx", "\\ud83d\\ud83d", "\\ude00\\ud83d"])
def test_lone_surrogates_are_refused_wherever_they_are(place: bytes, surrogate: str) -> None:
    assert refused(place.replace(b"@", surrogate.encode())) in ("bad_json", "bad_type")


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_control_characters_must_be_escaped(place: bytes) -> None:
    for code in range(0x20):
        assert refused(place.replace(b"@", bytes([code]))) == "bad_json"


def test_escaped_control_characters_come_through() -> None:
    odd = '"\\u0000\\u001f\\u007f\\b\\f\\n\\r\\t\\"\\\\\\/"'
    body = deliver(parse_frame(envelope(meta=f'"type":"user","msg":{odd}', payload=odd)))
    assert python_reads(body)["meta"]["msg"] == python_reads(body)["payload"] == json.loads(odd)


@pytest.mark.parametrize(
    "text", ["01", "1.", ".5", "+1", "NaN", "Infinity", "tru", "[1,]", '{"a":1,}', "'a'", '"\\q"', ""]
)
@pytest.mark.parametrize("extra", ["", ',"unknown":1'], ids=["strict", "loose"])
def test_a_payload_that_is_no_json_is_refused(text: str, extra: str) -> None:
    assert refused(envelope(payload=text, top=extra)) == "bad_json"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b" ",
        b"{",
        b"{}x",
        b"null",
        b"[]",
        b'"x"',
        b"\0",
        b"\xef\xbb\xbf" + envelope(),
        envelope() + b"\0",
    ],
)
def test_what_is_no_object_is_refused(frame: bytes) -> None:
    assert refused(frame) in ("bad_json", "missing_key", "bad_utf8")


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("place", "above"),
    [("payload", 1), ("context", 2), ("unknown meta", 2), ("unknown routing", 2), ("unknown top", 1)],
)
def test_128_levels_are_fine_and_129_are_not(place: str, above: int) -> None:
    def frame(levels: int) -> bytes:
        deep = nested(levels - above)
        return {
            "payload": envelope(payload=deep),
            "context": envelope(meta=f'"type":"user","context":{deep}'),
            "unknown meta": envelope(meta=f'"type":"user","q":{deep}'),
            "unknown routing": envelope(
                routing=f'"src":"{UUID}","q":{deep},"dst":null,"ttl":1,"trace_id":"t"'
            ),
            "unknown top": envelope(top=f',"q":{deep}'),
        }[place]

    assert nested(128 - above).encode() in deliver(parse_frame(frame(128)))
    assert refused(frame(129)) == "too_deep"
    assert refused(frame(60_000)) == "too_deep"


@given(st.binary(max_size=80) | st.text('{}[]":,\\ routingmetapyld0.e-', max_size=80).map(str.encode))
def test_any_bytes_are_parsed_or_refused(frame: bytes) -> None:
    with contextlib.suppress(RejectedFrame):
        parse_frame(frame)


@settings(max_examples=100)
@given(frames, st.integers(0, 10_000), st.binary(max_size=3), st.integers(0, 4))
def test_a_damaged_frame_is_refused_or_reads_alike_for_everybody(
    sent: Envelope, place: int, put: bytes, cut: int
) -> None:
    place %= len(sent.frame)
    damaged = sent.frame[:place] + put + sent.frame[place + cut :]
    try:
        message, meta, extras = parse_frame(damaged)
    except RejectedFrame:
        return
    body = render(message, extras)
    assert duplicates(body) == []
    assert go_reads(body) == python_reads(body)
    assert python_reads(body)["meta"]["type"] == meta.type


CORPUS = sorted((Path(__file__).parent / "corpus" / "frames").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    """``refused.<reason>.<what>`` is refused for that reason; ``fine.<what>`` reads alike for everybody."""
    verdict, _, rest = path.name.partition(".")
    frame = path.read_bytes()
    assert len(frame) <= MAX_FRAME_BYTES
    if verdict == "refused":
        assert refused(frame) == rest.partition(".")[0]
    else:
        body = deliver(parse_frame(frame))
        assert go_reads(body) == python_reads(body)
        assert duplicates(body) == []
        assert python_reads(body)["payload"] == python_reads(frame).get("payload")
