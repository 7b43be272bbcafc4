"""Who a client is: one client has one key in any spelling, two never share one, and nobody is believed who
need not be."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.limits.keys import (
    Networks,
    address,
    canonical,
    client_bytes,
    forwarded,
    forwarded_client,
    plain_number,
    x_forwarded_for,
)

PROXY = "10.0.0.1"
TRUSTED = Networks(["10.0.0.0/8", "2001:db8:1::/48", "192.0.2.200"])


@pytest.mark.parametrize(
    "spelling",
    ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201", "::FFFF:C000:0201", "0:0:0:0:0:ffff:192.0.2.1"],
)
def test_one_ipv4_client_in_any_spelling(spelling: str) -> None:
    assert client_bytes(spelling) == client_bytes("192.0.2.1")
    assert client_bytes(spelling) != client_bytes("192.0.2.2")
    assert str(address(spelling)) == "192.0.2.1"


@pytest.mark.parametrize("spelling", ["fe80::1", "fe80::1%eth0", "FE80:0:0:0:0:0:0:1", "fe80::1%2"])
def test_one_ipv6_client_in_any_spelling(spelling: str) -> None:
    assert str(address(spelling)) == "fe80::1"
    assert client_bytes(spelling) == client_bytes("fe80::1")


@pytest.mark.parametrize(
    "text",
    ["", " ", "unknown", "_hidden", "192.0.2", "192.0.2.256", "0300.0.2.1", "192.0.2.01", "0xC0000201",
     "3221225985", "192.0.2.1 ", "192.0.2.1:80", "[::1]", "::1/128", "1.2.3.4.5", "localhost", "::1::",
     "\u0661.2.3.4"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    assert address(text) is None


@given(st.from_regex(r"\A[0-9.]{5,17}\Z") | st.ip_addresses(v=4).map(str) | st.text(max_size=16))
def test_plain_addresses_are_read_as_the_library_reads_them(text: str) -> None:
    parsed = address(text)
    if isinstance(parsed, ipaddress.IPv4Address) and ":" not in text:
        assert plain_number(text) == int(parsed)
    else:
        assert plain_number(text) == -1
    assert canonical(text) == (None if parsed is None else str(parsed))


ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6)


def same_client(a: object, b: object) -> bool:
    a, b = address(str(a)), address(str(b))
    if isinstance(a, ipaddress.IPv6Address) and isinstance(b, ipaddress.IPv6Address):
        return int(a) >> 64 == int(b) >> 64
    return a == b


@given(ADDRESSES, ADDRESSES | st.none())
def test_clients_share_a_key_exactly_when_they_are_one(a: object, b: object) -> None:
    other = a if b is None else b
    assert (client_bytes(str(a)) == client_bytes(str(other))) == same_client(a, other)


@given(ADDRESSES, st.text(max_size=20))
def test_a_text_never_shares_a_key_with_an_address(a: object, text: str) -> None:
    if address(text) is None:
        assert client_bytes(str(a)) != client_bytes(text)


@given(st.text(max_size=20), st.text(max_size=20))
def test_texts_have_keys_of_their_own(a: str, b: str) -> None:
    if address(a) is None and address(b) is None:
        assert (client_bytes(a) == client_bytes(b)) == (a == b)


def test_prefixes() -> None:
    assert client_bytes("192.0.2.1", 24) == client_bytes("192.0.2.254", 24)
    assert client_bytes("192.0.2.1", 24) != client_bytes("192.0.3.1", 24)
    # IPv4-mapped addresses count by the prefix of IPv4: no mask of IPv6 lumps all of them together.
    assert client_bytes("::ffff:192.0.2.1", 32, 56) != client_bytes("::ffff:192.0.2.2", 32, 56)
    assert client_bytes("2001:db8::1", 32, 48) == client_bytes("2001:db8:0:ffff::1", 32, 48)
    assert client_bytes("2001:db8::1", 32, 128) != client_bytes("2001:db8::2", 32, 128)
    assert client_bytes("0.0.0.0", 0, 0) != client_bytes("::", 0, 0)


# --- networks


NETWORKS = st.tuples(ADDRESSES, st.integers(0, 128)).map(
    lambda pair: f"{pair[0]}/{min(pair[1], pair[0].max_prefixlen)}"
)


@given(st.lists(NETWORKS, max_size=6), ADDRESSES, st.data())
def test_networks_against_a_plain_search(texts: list[str], other: object, data: st.DataObject) -> None:
    networks = Networks(texts)
    candidates = [str(other), *(text.split("/")[0] for text in texts)]
    client = data.draw(st.sampled_from(candidates))
    parsed = address(client)
    assert parsed is not None
    expected = False
    for text in texts:
        network = ipaddress.ip_network(text, strict=False)
        mapped = getattr(network.network_address, "ipv4_mapped", None)
        if mapped is not None and network.prefixlen >= 96:
            network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
        expected |= parsed in network
    assert (client in networks) == expected


def test_networks() -> None:
    networks = Networks(["192.0.2.0/24", "192.0.3.0/24", "2001:db8::/32", "::ffff:198.51.100.0/120"])
    inside = [
        "192.0.2.0",
        "192.0.3.255",
        "::ffff:192.0.2.9",
        "2001:db8:ffff::",
        "198.51.100.7",
        "2001:db8::1%x",
    ]
    outside = [
        "192.0.1.255",
        "192.0.4.0",
        "2001:db9::",
        "198.51.101.0",
        "unix",
        "",
        "192.0.2.0/24",
        "::c000:200",
    ]
    assert [text for text in inside if text not in networks] == []
    assert [text for text in outside if text in networks] == []
    assert networks
    assert not Networks([])


@pytest.mark.timing
def test_many_networks_cost_no_more_than_a_few() -> None:
    """A list of blocked addresses is long: looking one up must not be a matter of its length."""
    networks = Networks(f"198.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(0, 200_000, 2))
    start = time.perf_counter()
    for n in range(0, 20_000, 2):
        assert f"198.0.{n >> 8}.{n & 255}" in networks
        assert f"198.0.{n >> 8}.{n & 255 | 1}" not in networks
    assert (time.perf_counter() - start) / 20_000 < 30e-6


# --- the believed field


def client(peer: str, *values: bytes) -> str:
    return forwarded_client(peer, x_forwarded_for(list(values)), TRUSTED)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.9, 192.0.2.1"], "192.0.2.1"),  # the client wrote the first one itself
        ([b"192.0.2.9", b"192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.1, 10.9.9.9"], "192.0.2.1"),
        ([b"192.0.2.1,10.9.9.9,\t10.8.8.8 "], "192.0.2.1"),
        ([b"192.0.2.1", b"10.9.9.9"], "192.0.2.1"),
        ([b"192.0.2.1, 192.0.2.200"], "192.0.2.1"),
        ([b"10.7.7.7, 10.9.9.9"], "10.7.7.7"),
        ([b"::ffff:192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.1, ::ffff:10.1.1.1"], "192.0.2.1"),
        ([b"192.0.2.1:4711"], "192.0.2.1"),
        ([b"[2001:db8::1]:4711"], "2001:db8::1"),
        ([b"[2001:db8::1]"], "2001:db8::1"),
        ([b"2001:db8::1"], "2001:db8::1"),
        ([b"2001:db8:1::5, 10.1.1.1"], "2001:db8:1::5"),
        # an entry that is no address ends the walk at the last good one
        ([b""], PROXY),
        ([b"unknown"], PROXY),
        ([b"192.0.2.1, unknown"], PROXY),
        ([b"192.0.2.1, unknown, 10.9.9.9"], "10.9.9.9"),
        ([b"192.0.2.1,"], PROXY),
        ([b"192.0.2.1, ,10.9.9.9"], "10.9.9.9"),
        ([b"192.0.2.1 192.0.2.2"], PROXY),
        ([b"192.0.2.1:x"], PROXY),
        ([b"192.0.2.1:"], PROXY),
        ([b"[2001:db8::1"], PROXY),
        ([b"[2001:db8::1]x"], PROXY),
        ([b"[2001:db8::1]:"], PROXY),
        ([b"\xa0192.0.2.1"], PROXY),
        ([b'"192.0.2.1"'], PROXY),
        ([b"192.0.2.1;10.1.1.1"], PROXY),
        ([b"192.0.2.1%eth0"], PROXY),
        ([b"for=192.0.2.1"], PROXY),
    ],
)
def test_x_forwarded_for(values: list[bytes], expected: str) -> None:
    assert client(PROXY, *values) == expected


@given(st.binary(max_size=40), st.ip_addresses(v=4).filter(lambda a: str(a) not in TRUSTED))
def test_nothing_that_a_client_writes_changes_what_the_proxy_says(spoofed: bytes, real: object) -> None:
    """Invariant: the proxy appends the peer that it saw, and that is the client, whatever stands before."""
    said = str(real).encode()
    assert client(PROXY, spoofed + b", " + said) == str(real)
    assert client(PROXY, spoofed, said) == str(real)


def test_a_long_list_is_not_read_further_than_it_is_believed() -> None:
    seen = 0

    def entries() -> object:
        nonlocal seen
        for entry in x_forwarded_for([b"192.0.2.1," * 100_000 + b"192.0.2.7, 10.1.1.1"]):
            seen += 1
            yield entry

    assert forwarded_client(PROXY, entries(), TRUSTED) == "192.0.2.7"  # type: ignore[arg-type]
    assert seen == 2


# --- Forwarded (RFC 7239)


def by_forwarded(*values: bytes) -> str:
    return forwarded_client(PROXY, forwarded(list(values)), TRUSTED)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"for=192.0.2.1"], "192.0.2.1"),
        ([b"For=192.0.2.1;proto=https;by=10.1.1.1"], "192.0.2.1"),
        ([b'proto=https; FOR="192.0.2.1:4711"'], "192.0.2.1"),
        ([b'for="[2001:db8::1]:4711"'], "2001:db8::1"),
        ([b'for="[2001:db8::1]"'], "2001:db8::1"),
        ([b"for=192.0.2.9, for=192.0.2.1"], "192.0.2.1"),
        ([b"for=192.0.2.9", b"for=192.0.2.1"], "192.0.2.1"),
        ([b"for=192.0.2.1, for=10.2.2.2"], "192.0.2.1"),
        ([b'for=192.0.2.1;host="a, for=192.0.2.9"'], "192.0.2.1"),
        ([b'for=192.0.2.1;host="a;for=192.0.2.9"'], "192.0.2.1"),
        ([b'for=192.0.2.1;host="a\\", for=192.0.2.9"'], "192.0.2.1"),
        ([b'for=192.0.2.1;host="a\\\\", for=10.2.2.2'], "192.0.2.1"),
        # a quote that a client has left open swallows nothing of what a proxy says
        ([b'for="192.0.2.9, for=192.0.2.1'], "192.0.2.1"),
        ([b'for=", for="[2001:db8::1]"'], "2001:db8::1"),
        ([b'host=";for=192.0.2.9', b"for=192.0.2.1"], "192.0.2.1"),
        ([b'for=\\, for="192.0.2.1"'], "192.0.2.1"),
        # no address
        ([b"for=unknown"], PROXY),
        ([b"for=_secret"], PROXY),
        ([b"proto=https"], PROXY),
        ([b"for=192.0.2.9, proto=https"], PROXY),
        ([b""], PROXY),
        ([b"192.0.2.1"], PROXY),
        ([b"for=192.0.2.1;for=192.0.2.2"], PROXY),
        ([b"xfor=192.0.2.1"], PROXY),
        ([b"for=192.0.2.9, for=unknown, for=10.2.2.2"], "10.2.2.2"),
    ],
)
def test_forwarded(values: list[bytes], expected: str) -> None:
    assert by_forwarded(*values) == expected


@given(
    st.text('";,=\\ for192.0:[]ab', max_size=40).map(str.encode) | st.binary(max_size=30),
    ADDRESSES.filter(lambda a: str(a) not in TRUSTED),
)
def test_nothing_that_a_client_writes_changes_what_forwarded_says(spoofed: bytes, real: object) -> None:
    """Invariant, as above: a well-formed element that a proxy appends is read as it stands."""
    node = f"for={real}" if isinstance(real, ipaddress.IPv4Address) else f'for="[{real}]"'
    said = f'proto=http;{node};host="a.example"'.encode()
    assert by_forwarded(spoofed + b", " + said) == str(address(str(real)))
    assert by_forwarded(spoofed, said) == str(address(str(real)))


def test_quotes_are_not_counted_for_ever() -> None:
    start = time.perf_counter()
    assert by_forwarded(b"\\" * 16_000 + b'"' * 16_000) == PROXY
    assert by_forwarded(b'\\"' * 16_000) == PROXY
    assert time.perf_counter() - start < 1
