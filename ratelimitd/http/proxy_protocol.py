"""The PROXY protocol, v1 and v2, as bytes in, values out: who a proxy says is at the other end.

`read` takes what has come so far. As long as that can still become a header it asks for more; the first byte
that no header can have there is refused, so whoever brings none is found out at once. What follows a header
belongs to HTTP, or TLS. Type-length-value fields are skipped, the checksum that one may hold as well.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Final

from ratelimitd.errors import ClientFault

MOST_V1: Final = 107  # the line, with its end
MOST_V2: Final = 4096  # more than any proxy sends; the protocol itself allows 64 KiB

_V1: Final = b"PROXY "
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED: Final = 16
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_INET, _INET6, _UNIX = 1, 2, 3  # family; 0 is unspecified
_ADDRESSES: Final = {0: 0, _INET: 12, _INET6: 36, _UNIX: 216}  # bytes of both addresses and ports
_TRANSPORTS: Final = (0, 1, 2)  # unspecified, stream, datagram


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A whole header of `size` bytes. `source` is an address or `unix`; None: the proxy speaks for itself, or
    does not know, and the peer of the connection counts."""

    size: int
    source: str | None


def read(data: bytes) -> ProxyHeader | None:
    """The header that `data` begins with; None: more is needed. ClientFault: there is none."""
    if data[: len(_V2)] == _V2[: len(data)]:
        return _read_v2(data)
    if data[: len(_V1)] == _V1[: len(data)]:
        return _read_v1(data)
    raise _fault("there is no PROXY header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MOST_V1)
    if end < 0:
        if len(data) >= MOST_V1 or b"\n" in data:
            raise _fault("the PROXY header does not end")
        return None
    protocol, *rest = data[len(_V1) : end].split(b" ")
    if protocol == b"UNKNOWN":
        return ProxyHeader(end + 2, None)
    if protocol not in (b"TCP4", b"TCP6") or len(rest) != 4:
        raise _fault("the PROXY header is malformed")
    source, destination, source_port, destination_port = rest
    make = ipaddress.IPv4Address if protocol == b"TCP4" else ipaddress.IPv6Address
    try:
        address = make(source.decode("ascii"))
        make(destination.decode("ascii"))
    except ValueError:
        raise _fault("the PROXY header has an address that is none") from None
    if b"%" in source + destination or not (_is_port(source_port) and _is_port(destination_port)):
        raise _fault("the PROXY header is malformed")
    return ProxyHeader(end + 2, str(address))


def _is_port(text: bytes) -> bool:
    """A number without zeros before it, which some read as octal."""
    return text.isdigit() and len(text) <= 5 and int(text) <= 65_535 and text == b"%d" % int(text)


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise _fault("the PROXY header is of another version, or has an unknown command")
    if len(data) < _V2_FIXED:
        return None
    size = _V2_FIXED + int.from_bytes(data[14:16], "big")
    if size > MOST_V2:
        raise _fault(f"the PROXY header is larger than {MOST_V2} bytes")
    source = None
    if data[12] == _PROXY:
        family, transport = divmod(data[13], 16)
        if family not in _ADDRESSES or transport not in _TRANSPORTS:
            raise _fault("the PROXY header has an unknown family of addresses")
        if size - _V2_FIXED < _ADDRESSES[family]:
            raise _fault("the PROXY header is too short for its addresses")
        if len(data) >= size:
            source = _source(family, data)
    return ProxyHeader(size, source) if len(data) >= size else None


def _source(family: int, data: bytes) -> str | None:
    if family == _INET:
        return str(ipaddress.IPv4Address(data[_V2_FIXED : _V2_FIXED + 4]))
    if family == _INET6:
        return str(ipaddress.IPv6Address(data[_V2_FIXED : _V2_FIXED + 16]))
    return "unix" if family == _UNIX else None


def _fault(detail: str) -> ClientFault:
    return ClientFault(400, detail)
