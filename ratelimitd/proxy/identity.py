"""Who asks: from the peer's address and, behind trusted proxies, the one field that is believed.

What is found is kept for the clients seen last, with the keys already made of it, so that a client costs one
look-up however many connections it opens. The addresses of a Unix socket's peers are the word `unix`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from ratelimitd.limits.decision import Client
from ratelimitd.limits.keys import (
    Networks,
    address,
    client_bytes,
    forwarded,
    forwarded_client,
    x_forwarded_for,
)

if TYPE_CHECKING:
    from ratelimitd.config.model import Clients

_REMEMBERED: Final = 8192
_FIELDS: Final = {"x-forwarded-for": b"x-forwarded-for", "forwarded": b"forwarded", "none": None}


class Identify:
    """Compiled from the `clients` of a configuration. `field` is the believed field's name, or None."""

    def __init__(self, clients: Clients) -> None:
        self.field: Final = _FIELDS[clients.header]
        self._trusts_unix: Final = "unix" in clients.trusted_proxies
        self._trusted: Final = Networks(text for text in clients.trusted_proxies if text != "unix")
        self._allow: Final = Networks(clients.allow)
        self._deny: Final = Networks(clients.deny)
        self._prefixes: Final = (clients.ipv4_prefix, clients.ipv6_prefix)
        self._client: Final = functools.lru_cache(maxsize=_REMEMBERED)(self._make_client)

    def trusts(self, peer: str) -> bool:
        return self._trusts_unix if peer == "unix" else peer in self._trusted

    def text(self, peer: str) -> bytes:
        """The peer as it is told to the upstream: IPv4-mapped addresses as IPv4."""
        parsed = address(peer)
        return b"unix" if parsed is None else str(parsed).encode("ascii")

    def client(self, peer: str, values: bytes | None) -> Client:
        """The client behind `peer`; `values` are those of the believed field of a trusted peer."""
        if values is None:
            return self._client(peer)
        entries = x_forwarded_for([values]) if self.field == b"x-forwarded-for" else forwarded([values])
        return self._client(forwarded_client(peer, entries, self._trusted))

    def _make_client(self, client: str) -> Client:
        parsed = address(client)
        return Client(
            client if parsed is None else str(parsed),
            client_bytes(client, *self._prefixes),
            allowed=client in self._allow,
            denied=client in self._deny,
        )
