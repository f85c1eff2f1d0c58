"""Where a source may be asked: texts of URLs, and the addresses behind them."""

from __future__ import annotations

import pytest

from appliance.wire.errors import Invalid, Refused
from appliance.world.connectors.addresses import ReachPolicy, Target, parse_target


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://meter.lan", ("meter.lan", 80, "/", "meter.lan")),
        ("https://Meter.LAN:8443/a?b=c#d", ("meter.lan", 8443, "/a?b=c", "meter.lan:8443")),
        ("https://example.org.", ("example.org", 443, "/", "example.org")),
        ("http://[2001:DB8::1]:80/x", ("2001:db8::1", 80, "/x", "[2001:db8::1]")),
        ("http://10.0.0.9/api", ("10.0.0.9", 80, "/api", "10.0.0.9")),
        ("http://line_2/api", ("line_2", 80, "/api", "line_2")),
    ],
)
def test_addresses_that_can_be_asked(url, expected):
    target = parse_target(url)
    assert (target.host, target.port, target.path, target.authority) == expected
    assert target.secure == url.startswith("https")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "meter.lan/x",
        "//meter.lan/x",
        "file:///etc/passwd",
        "gopher://meter.lan/_x",
        "ftp://meter.lan/",
        "javascript:alert(1)",
        "http://",
        "http:///x",
        "http://user@meter.lan/",
        "http://meter.lan@169.254.169.254/",
        "http://user:secret@127.0.0.1/",
        "http://meter.lan\\@127.0.0.1/",
        "http://meter.lan:0/",
        "http://meter.lan:65536/",
        "http://meter.lan:x/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0x7f.1/",
        "http://1.2.3.4.5/",
        "http://a..b/",
        "http://-a/",
        "http://a b/",
        "http://a\tb/",
        "http://a\r\nHost: b/",
        "http://m\u00e9ter.lan/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://[1.2.3.4]/",
        "http://%31%32%37.0.0.1/",
        "http://meter.lan/" + "x" * 2000,
    ],
)
def test_addresses_that_are_none(url):
    with pytest.raises(Invalid) as caught:
        parse_target(url)
    assert caught.value.field == "url"


def target(host: str = "meter.lan", port: int = 80) -> Target:
    return Target(secure=False, host=host, port=port, path="/")


NEVER = [
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "ff02::1",
    "fec0::1",
    "168.63.129.16",
    "100.100.100.200",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::169.254.169.254",
    "no address",
]
LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]
PRIVATE = ["10.0.0.9", "192.168.1.1", "172.16.0.1", "fd12::1", "100.64.0.1"]
PUBLIC = ["140.82.112.3", "2606:50c0:8000::153"]


@pytest.mark.parametrize("reach", ["network", "public", "listed"])
@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_the_like_are_never_asked_even_when_listed(reach, address):
    policy = ReachPolicy(reach, ["meter.lan", "0.0.0.0/0", "::/0"])
    with pytest.raises(Refused) as caught:
        policy.permitted(target(), [address])
    assert caught.value.code == "ADDRESS_REFUSED"


@pytest.mark.parametrize("address", LOOPBACK)
def test_this_box_is_asked_only_when_listed(address):
    for reach in ("network", "public", "listed"):
        with pytest.raises(Refused):
            ReachPolicy(reach).permitted(target(), [address])
        assert ReachPolicy(reach, ["METER.lan:80"]).permitted(target(), [address])
    with pytest.raises(Refused):
        ReachPolicy("network", ["meter.lan:81"]).permitted(target(), [address])


@pytest.mark.parametrize(
    ("reach", "good", "bad"),
    [
        ("network", PRIVATE + PUBLIC, LOOPBACK),
        ("public", PUBLIC, PRIVATE + LOOPBACK),
        ("listed", [], PRIVATE + PUBLIC + LOOPBACK),
    ],
)
def test_reach(reach, good, bad):
    policy = ReachPolicy(reach)
    for address in good:
        assert policy.permitted(target(), [address]) == [address]
    for address in bad:
        with pytest.raises(Refused):
            policy.permitted(target(), [address])


def test_networks_are_listed_by_address_and_mapped_ones_are_what_they_map():
    policy = ReachPolicy("listed", ["127.0.0.0/8", "10.1.0.0/16", "192.168.7.7"])
    assert policy.permitted(target(), ["::ffff:127.0.0.1"]) == ["127.0.0.1"]
    assert policy.permitted(target(), ["10.2.0.1", "10.1.0.1", "192.168.7.7"]) == ["10.1.0.1", "192.168.7.7"]


def test_of_a_name_with_many_addresses_only_the_good_ones_count():
    assert ReachPolicy().permitted(target(), ["fe80::1", "192.168.1.5", "127.0.0.1"]) == ["192.168.1.5"]


def test_what_needs_no_resolver_is_refused_at_once():
    policy = ReachPolicy()
    for host in ("127.0.0.1", "::1", "localhost", "a.localhost", "169.254.169.254"):
        with pytest.raises(Refused):
            policy.check_literal(target(host))
    policy.check_literal(target("meter.lan"))
    policy.check_literal(target("10.0.0.9"))
    ReachPolicy("network", ["localhost"]).check_literal(target("localhost"))


def test_a_connection_that_leads_back_to_this_box():
    """Its own address in the network is this box as well."""
    ReachPolicy().check_peer(target(), "10.0.0.9", "10.0.0.5")
    ReachPolicy("network", ["10.0.0.5"]).check_peer(target(), "10.0.0.5", "10.0.0.5")
    for own in ("10.0.0.5", "fd12::5"):
        with pytest.raises(Refused):
            ReachPolicy().check_peer(target(), own, own)
