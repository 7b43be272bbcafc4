"""The PROXY header: what it says, where it ends, what is none, and that no cut changes any of it."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.errors import ClientFault
from ratelimitd.http.proxy_protocol import MOST_V1, MOST_V2, ProxyHeader, read

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.9") + struct.pack("!HH", 1, 443)
TCP6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::9")
    + struct.pack("!HH", 1, 443)
)
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")


def v2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


GOOD = {
    b"PROXY TCP4 192.0.2.1 192.0.2.9 56324 443\r\n": "192.0.2.1",
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": "0.0.0.0",
    b"PROXY TCP6 2001:db8::1 2001:DB8:0:0::9 56324 443\r\n": "2001:db8::1",
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n": None,
    b"PROXY UNKNOWN " + b"x" * (MOST_V1 - 16) + b"\r\n": None,
    v2(PROXY, 0x11, TCP4): "192.0.2.1",
    v2(PROXY, 0x12, TCP4): "192.0.2.1",
    v2(PROXY, 0x21, TCP6): "2001:db8::1",
    v2(PROXY, 0x31, UNIX): "unix",
    v2(PROXY, 0x00, b""): None,
    v2(PROXY, 0x00, b"anything"): None,
    v2(LOCAL, 0x00, b""): None,
    v2(LOCAL, 0x11, TCP4): None,
    v2(LOCAL, 0xFF, b"anything"): None,
    v2(PROXY, 0x11, TCP4 + b"\x04\x00\x03abc"): "192.0.2.1",
    v2(PROXY, 0x11, TCP4 + bytes(MOST_V2 - 16 - len(TCP4))): "192.0.2.1",
}

BAD = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
    b"proxy TCP4 192.0.2.1 192.0.2.9 1 2\r\n",
    b"PROXY  TCP4 192.0.2.1 192.0.2.9 1 2\r\n",
    b"PROXY\tTCP4 192.0.2.1 192.0.2.9 1 2\r\n",
    b"PROXY TCP4  192.0.2.1 192.0.2.9 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2 \r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2 3\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\r\n",
    b"PROXY TCP4 192.0.2.01 192.0.2.9 1 2\r\n",
    b"PROXY TCP4 192.0.2 192.0.2.9 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.256 1 2\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::9 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.9 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::9 1 2\r\n",
    b"PROXY TCP6 2001:db8::1 2001:db8::9 65536 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 01 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 +1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.9 1 -2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.9  2\r\n",
    b"PROXY TCP4 192.0.2.\xb2 192.0.2.9 1 2\r\n",
    b"PROXY UDP4 192.0.2.1 192.0.2.9 1 2\r\n",
    b"PROXY \r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN " + b"x" * (MOST_V1 - 15) + b"\r\n",
    SIGNATURE[:-1] + b"\r",
    v2(0x11, 0x11, TCP4),
    v2(0x22, 0x11, TCP4),
    v2(0x31, 0x11, TCP4),
    v2(PROXY, 0x13, TCP4),
    v2(PROXY, 0x41, TCP4),
    v2(PROXY, 0x11, TCP4[:-1]),
    v2(PROXY, 0x21, TCP4),
    v2(PROXY, 0x31, TCP6),
    v2(PROXY, 0x11, TCP4, MOST_V2 - 15),
    v2(LOCAL, 0x00, b"", 65_535),
]


@pytest.mark.parametrize(("data", "source"), GOOD.items(), ids=[repr(data[:40]) for data in GOOD])
def test_a_header_says_who_it_is_and_where_it_ends(data: bytes, source: str | None) -> None:
    for rest in (b"", b"GET / HTTP/1.1\r\n", b"\r\n", data):
        assert read(data + rest) == ProxyHeader(len(data), source)
    for end in range(len(data)):
        assert read(data[:end]) is None, "part of a header is neither a header nor a mistake"


@pytest.mark.parametrize("data", BAD, ids=[repr(data[:60]) for data in BAD])
def test_what_is_none_is_refused_and_stays_refused(data: bytes) -> None:
    refused = False
    for end in range(len(data) + 1):
        try:
            assert read(data[:end]) is None
            assert not refused, "more bytes made a header of what was none"
        except ClientFault:
            refused = True
    assert refused


def test_an_ipv4_address_in_ipv6_is_read() -> None:
    header = read(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n")
    assert header is not None
    assert ipaddress.ip_address(header.source or "") == ipaddress.ip_address("::ffff:192.0.2.1")


def test_what_speaks_another_protocol_is_found_out_at_its_first_byte() -> None:
    for first in (b"G", b"\x16", b"p", b"\n", b"\x00"):
        with pytest.raises(ClientFault):
            read(first)


ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6)
PORTS = st.integers(0, 65_535)


@given(st.data(), ADDRESSES, PORTS, PORTS, st.binary(max_size=50), st.integers(0, 300))
def test_written_by_the_specification_it_is_read_at_every_cut(
    data: st.DataObject,
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    source_port: int,
    port: int,
    rest: bytes,
    cut: int,
) -> None:
    """The invariant: source and size are the writer's, and no shorter piece says more than `more`."""
    if data.draw(st.booleans()):
        header = f"PROXY TCP{source.version} {source} {source} {source_port} {port}\r\n".encode()
    else:
        fields = data.draw(st.binary(max_size=200))
        body = source.packed * 2 + struct.pack("!HH", source_port, port) + fields
        header = v2(PROXY, 0x11 if source.version == 4 else 0x21, body)
    assert read(header + rest) == ProxyHeader(len(header), str(source))
    assert read(header[: min(cut, len(header) - 1)]) is None


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PROXY TCP4 ", b"PROXY TCP6 ", SIGNATURE, SIGNATURE + b"!"]),
)
def test_any_bytes_are_read_or_refused(tail: bytes, start: bytes) -> None:
    """And what is read lies within the bytes and the bound."""
    try:
        header = read(start + tail)
    except ClientFault:
        return
    if header is not None:
        assert 0 < header.size <= min(MOST_V2, len(start + tail))
