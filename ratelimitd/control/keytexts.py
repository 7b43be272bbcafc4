"""Keys as people write and read them, and the texts of those that matter now.

The table knows hashes alone. A text is turned into the bytes that requests are counted by, and back. Values
of headers, cookies and queries may be secrets: they are shown as their first four characters and a
fingerprint. Texts are kept, 1,024 at most, of keys that were refused of late or are banned.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from ratelimitd.http.target import limit_path, normal_host, normal_path
from ratelimitd.limits.keys import KINDS, address, client_bytes
from ratelimitd.limits.table import siphash24
from ratelimitd.segment.memory import boottime_us

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ratelimitd.config.model import Clients, Limit
    from ratelimitd.proxy.orders import Refusals

MOST_TEXTS: Final = 1_024
_SECRET: Final = frozenset({"header", "cookie", "query"})
_SHOWN: Final = 4
_SPAN_US: Final = 10_000_000  # over which a rate of refusals is averaged
_NAMES: Final = {kind: name for name, kind in KINDS.items()}

Parts = tuple[tuple[str, bytes], ...]  # (kind, value) of each thing that a key is made of


def value_of(kind: str, text: str, clients: Clients) -> bytes:
    """What stands in a key for what an operator writes; ValueError when it can be none."""
    match kind:
        case "client":
            if address(text) is None and text != "unix":
                raise ValueError(f"{text!r} is no address of a client")
            return client_bytes(text, clients.ipv4_prefix, clients.ipv6_prefix)
        case "host":
            return normal_host(text.encode("latin-1", "replace")).encode("latin-1")
        case "path":
            if not text.startswith("/"):
                raise ValueError(f"{text!r} is no path: it begins with no /")
            return limit_path(normal_path(text.encode("utf-8", "surrogateescape"))).encode("utf-8")
        case _:
            return text.encode("utf-8", "surrogateescape")


def shown(parts: Parts, secret: bytes | None) -> str:
    """A key on one line; `secret` makes fingerprints that tell nothing elsewhere, None leaves them out."""
    return " ".join(_part_text(kind, value, secret) for kind, value in parts)


def _part_text(kind: str, value: bytes, secret: bytes | None) -> str:
    if kind == "global":
        return "global"
    if kind == "client":
        return _client_text(value)
    if kind in _SECRET:
        begin = _printable(value[: 4 * _SHOWN])[:_SHOWN]
        fingerprint = "" if secret is None else f"#{siphash24(value, secret):016x}"
        return f"{begin}\N{HORIZONTAL ELLIPSIS}{fingerprint}"
    return _printable(value)


def _client_text(value: bytes) -> str:
    family, packed = value[:1], value[1:]
    if family in (b"4", b"6"):
        return str(ipaddress.ip_address(packed))
    return _printable(packed)


def _printable(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def parts_of(tail: bytes) -> Parts:
    """The parts of a key's material without its salt: what `keys.material` joined."""
    if tail[:1] != b"l":
        return ((_NAMES[tail[:1]], tail[1:]),)
    return tuple(_list_parts(tail[1:]))


def _list_parts(rest: bytes) -> Iterator[tuple[str, bytes]]:
    while rest:
        end = 5 + int.from_bytes(rest[1:5], "little")
        yield _NAMES[rest[:1]], rest[5:end]
        rest = rest[end:]


def may_be(limit: Limit, kinds: Iterable[str]) -> bool:
    """Whether keys of these kinds are counted by `limit`; a client stands in for what is missing."""
    own = tuple(per.partition(":")[0] for per in limit.per)
    given = tuple(kinds)
    return len(own) == len(given) and all(
        kind == wanted or (kind == "client" and limit.missing == "client" and wanted != "global")
        for kind, wanted in zip(given, own, strict=True)
    )


@dataclasses.dataclass
class Known:
    """One key of which the text is kept."""

    limit: str
    parts: Parts
    refused: int = 0
    refused_at_us: int = 0
    banned_until_us: int = 0
    _per_s: float = 0.0

    def note(self, refused: int, now_us: int) -> None:
        """Count refusals that happened up to now."""
        self._per_s = self.per_s(now_us) + refused * 1e6 / _SPAN_US
        self.refused += refused
        self.refused_at_us = now_us

    def per_s(self, now_us: int) -> float:
        """Refusals a second, those of the last 10 s weighing most."""
        return self._per_s * math.exp((self.refused_at_us - now_us) / _SPAN_US)


class Texts:
    """The keys of which the texts are kept. A new one takes the place of the one refused longest ago; those
    that are banned go last."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, Parts], Known] = OrderedDict()

    def __iter__(self) -> Iterator[Known]:
        return iter(self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def get(self, limit: str, parts: Parts) -> Known | None:
        return self._known.get((limit, parts))

    def refused(self, limit: str, parts: Parts, count: int, now_us: int) -> None:
        self._take(limit, parts, now_us).note(count, now_us)

    def take(self, report: Refusals) -> None:
        """What a worker tells of those it refused."""
        now_us = boottime_us()
        for limit, tail, count in report.keys:
            self.refused(limit, parts_of(tail), count, now_us)

    def banned(self, limit: str, parts: Parts, until_us: int, now_us: int) -> None:
        """Note a ban, or with `until_us` 0 that there is none."""
        self._take(limit, parts, now_us).banned_until_us = until_us

    def forget(self, limit: str, parts: Parts) -> None:
        self._known.pop((limit, parts), None)

    def _take(self, limit: str, parts: Parts, now_us: int) -> Known:
        known = self._known.get((limit, parts))
        if known is None:
            if len(self._known) >= MOST_TEXTS:
                del self._known[self._least(now_us)]
            known = self._known[limit, parts] = Known(limit, parts)
        self._known.move_to_end((limit, parts))
        return known

    def _least(self, now_us: int) -> tuple[str, Parts]:
        oldest = next(iter(self._known))
        return next((key for key, known in self._known.items() if known.banned_until_us <= now_us), oldest)
