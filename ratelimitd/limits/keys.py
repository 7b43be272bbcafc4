"""Who a client is: its address by what may be believed, and the bytes that stand for it in a key.

A client has one key however its address is spelt (IPv4-mapped IPv6 is IPv4, IPv6 counts by its prefix), and
two clients never share one. The field that names a client is read from the right: trusted addresses are
skipped, the first other one is the client, and an entry that is no address ends the walk.
"""

from __future__ import annotations

import bisect
import hashlib
import ipaddress
from typing import TYPE_CHECKING, Final

from ratelimitd.limits.addresses import Ipv4Ranges, plain_ipv4

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# The kinds of what a limit counts by, as they stand in a key's material.
KINDS: Final = {
    "client": b"c",
    "global": b"g",
    "header": b"h",
    "cookie": b"k",
    "query": b"q",
    "host": b"o",
    "path": b"p",
    "method": b"m",
}
_LIST: Final = b"l"

SALT_SIZE: Final = 8

_V4: Final = b"4"
_V6: Final = b"6"
# So many `\\` before a quote are counted: more have no use, and their number is the client's choice.
_MOST_ESCAPES: Final = 64


def plain_number(text: str) -> int:
    """The number of an IPv4 address in the spelling that nearly all have; -1 for anything else."""
    return plain_ipv4(text.encode("ascii")) if text.isascii() else -1


def canonical(text: str) -> str | None:
    """How the address that `text` spells is usually spelt; None when it is none."""
    if plain_number(text) >= 0:
        return text
    parsed = address(text)
    return None if parsed is None else str(parsed)


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `text` spells, IPv4-mapped ones as IPv4, without a zone; None when it is none."""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return parsed.ipv4_mapped
        if parsed.scope_id is not None:
            return ipaddress.IPv6Address(int(parsed))
    return parsed


def ipv4_bytes(number: int, prefix: int) -> bytes:
    """What stands for a client with an IPv4 address in a key."""
    return _V4 + (number >> (32 - prefix) << (32 - prefix)).to_bytes(4, "big")


def client_bytes(client: str, ipv4_prefix: int = 32, ipv6_prefix: int = 64) -> bytes:
    """What stands for a client in a key: its family and the prefix of its address; a text that is no
    address (a Unix socket's peer) stands for itself."""
    number = plain_number(client)
    if number >= 0:
        return ipv4_bytes(number, ipv4_prefix)
    parsed = address(client)
    if parsed is None:
        return b"u" + client.encode("utf-8", "surrogateescape")
    if isinstance(parsed, ipaddress.IPv4Address):
        return ipv4_bytes(int(parsed), ipv4_prefix)
    kept = int(parsed) >> (128 - ipv6_prefix) << (128 - ipv6_prefix)
    return _V6 + kept.to_bytes(16, "big")


def salt(limit: str, window_us: int) -> int:
    """What tells the keys of one limit's window from those of another: the same on every node of a fleet, as
    numbers are not that each segment gives out in its own order."""
    return int.from_bytes(hashlib.blake2b(f"{window_us}:{limit}".encode(), digest_size=8).digest(), "little")


def material(salted: int, parts: Sequence[tuple[str, bytes]]) -> bytes:
    """What a key is the hash of: the salt of a limit's window, then what was counted by, (kind, value) each.

    A list of several is told from any single value, and its parts from each other, by their lengths."""
    head = salted.to_bytes(SALT_SIZE, "little")
    if len(parts) == 1:
        ((kind, value),) = parts
        return head + KINDS[kind] + value
    return (
        head
        + _LIST
        + b"".join(KINDS[kind] + len(value).to_bytes(4, "little") + value for kind, value in parts)
    )


class Networks:
    """A set of networks, in CIDR notation; an address is looked up by one bisection. `ipv4` has those of
    IPv4, by the numbers of addresses."""

    def __init__(self, networks: Iterable[str]) -> None:
        spans: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for text in networks:
            version, first, last = _span(text)
            spans[version].append((first, last))
        self.ipv4: Final = Ipv4Ranges(*_merged(sorted(spans[4])))
        self._ipv6: Final = _merged(sorted(spans[6]))
        self._any: Final = any(spans.values())

    def __bool__(self) -> bool:
        return self._any

    def __contains__(self, client: str) -> bool:
        if not self._any:
            return False
        number = plain_number(client)
        if number >= 0:
            return number in self.ipv4
        parsed = address(client)
        if parsed is None:
            return False
        number = int(parsed)
        if parsed.version == 4:
            return number in self.ipv4
        firsts, lasts = self._ipv6
        at = bisect.bisect_right(firsts, number) - 1
        return at >= 0 and number <= lasts[at]


def _span(text: str) -> tuple[int, int, int]:
    """Version, first and last address of a network in CIDR notation; IPv4-mapped ones are IPv4."""
    number = plain_number(text)  # nearly all of a long list, in a third of the time
    if number >= 0:
        return 4, number, number
    network = ipaddress.ip_network(text, strict=False)
    first, last = int(network.network_address), int(network.broadcast_address)
    mapped = isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None
    if mapped and network.prefixlen >= 96:
        return 4, first & 0xFFFFFFFF, last & 0xFFFFFFFF
    return network.version, first, last


def _merged(spans: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """First and last addresses, in order, without overlaps."""
    firsts: list[int] = []
    lasts: list[int] = []
    for first, last in spans:
        if lasts and first <= lasts[-1] + 1:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)
    return firsts, lasts


def forwarded_client(peer: str, entries: Iterable[str], trusted: Networks) -> str:
    """The client behind trusted proxies: `entries` are the addresses of the believed field, nearest first.

    The walk ends at the first entry that is not trusted, or before the first that is no address: then the
    last good one is the client. What lies behind its end is not looked at."""
    client = peer
    for entry in entries:
        found = canonical(entry)
        if found is None:
            break
        client = found
        if client not in trusted:
            break
    return client


def x_forwarded_for(values: list[bytes]) -> Iterator[str]:
    """The addresses of X-Forwarded-For fields, the nearest first; ports are cut."""
    rest, comma = b",".join(values), b","
    while comma:
        rest, comma, entry = rest.rpartition(b",")
        yield _without_port(entry.decode("latin-1").strip(" \t"))


def forwarded(values: list[bytes]) -> Iterator[str]:
    """The `for` parameters of Forwarded fields (RFC 7239), the nearest first; an element that has none, or
    more than one, is an entry that is no address.

    Read from the right: what a proxy has added is read the same whatever stands before it, so that no quote
    which a client left open can swallow it."""
    for element in _split(b",".join(values).decode("latin-1"), ","):
        nodes = []
        for pair in _split(element, ";"):
            name, _, value = pair.partition("=")
            if name.strip(" \t").lower() == "for":
                nodes.append(value.strip(" \t"))
        entry = nodes[0] if len(nodes) == 1 else ""
        if len(entry) > 1 and entry[0] == entry[-1] == '"':
            entry = entry[1:-1]
        yield _without_port(entry)


def _split(text: str, separator: str) -> Iterator[str]:
    """The parts of `text` between separators that are not quoted, from the right."""
    quoted = False
    end = len(text)
    for at in range(len(text) - 1, -1, -1):
        if text[at] == '"':
            before = text[max(0, at - _MOST_ESCAPES) : at]
            quoted ^= (len(before) - len(before.rstrip("\\"))) % 2 == 0
        elif text[at] == separator and not quoted:
            yield text[at + 1 : end]
            end = at
    yield text[:end]


def _without_port(entry: str) -> str:
    """`192.0.2.1:80`, `[2001:db8::1]:80`, `[2001:db8::1]` and bare addresses."""
    if entry.startswith("["):
        inside, bracket, rest = entry[1:].partition("]")
        return (
            inside
            if bracket and (not rest or (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit()))
            else ""
        )
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        return host if port.isascii() and port.isdigit() else ""
    return entry
