"""Who asks: from the peer's address and, behind trusted proxies, the one field that is believed.

What is found is kept for the clients seen last, with the keys already made of it, so that a client costs one
look-up however many connections it opens. The addresses of a Unix socket's peers are the word `unix`.
"""

from __future__ import annotations

import dataclasses
import functools
import socket
from typing import TYPE_CHECKING, Final

from ratelimitd.limits.charges import Client
from ratelimitd.limits.keys import (
    Networks,
    canonical,
    client_bytes,
    forwarded,
    forwarded_client,
    x_forwarded_for,
)
from ratelimitd.limits.plain_clients import PlainClients
from ratelimitd.limits.table import siphash24

if TYPE_CHECKING:
    import asyncio

    from ratelimitd.config.model import Clients

_REMEMBERED: Final = 8192
# No limit has the id 0, so no key of a limit is a key of connections.
_PLACES: Final = b"\0\0x"
_FIELDS: Final = {"x-forwarded-for": b"x-forwarded-for", "forwarded": b"forwarded", "none": None}


def peer_of(transport: asyncio.BaseTransport) -> str | None:
    """The address at the other end; `unix` on a Unix socket, None when it went before it could be asked."""
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        return str(peer[0])
    return "unix" if transport.get_extra_info("socket").family == socket.AF_UNIX else None


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection. `text` is how it is told to the upstream, `place_key` the key
    under which its connections are counted; 0: they are not."""

    client: Client
    trusted: bool
    text: bytes
    place_key: int


class Identify:
    """Compiled from the `clients` of a configuration. `field` is the believed field's name, or None; where
    that is X-Forwarded-For, `plain` knows most of those who are behind trusted proxies."""

    def __init__(self, clients: Clients, secret: bytes) -> None:
        self.field: Final = _FIELDS[clients.header]
        self._secret: Final = secret
        self._trusts_unix: Final = "unix" in clients.trusted_proxies
        self._trusted: Final = Networks(text for text in clients.trusted_proxies if text != "unix")
        self._allow: Final = Networks(clients.allow)
        self._deny: Final = Networks(clients.deny)
        self._prefixes: Final = (clients.ipv4_prefix, clients.ipv6_prefix)
        self.plain: Final = PlainClients(
            self._trusted.ipv4, self._allow.ipv4, self._deny.ipv4, clients.ipv4_prefix
        )
        self.client: Final = functools.lru_cache(maxsize=_REMEMBERED)(self._make_client)
        self.peer: Final = functools.lru_cache(maxsize=_REMEMBERED)(self._make_peer)

    def forwarded_client(self, peer: str, values: bytes) -> Client:
        """The client behind a trusted `peer`; `values` are those of the believed field."""
        entries = x_forwarded_for([values]) if self.field == b"x-forwarded-for" else forwarded([values])
        return self.client(forwarded_client(peer, entries, self._trusted))

    def _make_peer(self, peer: str) -> Peer:
        plain = canonical(peer)
        client = self.client(peer)
        trusted = self._trusts_unix if peer == "unix" else peer in self._trusted
        exempt = trusted or client.allowed or plain is None
        return Peer(
            client=client,
            trusted=trusted,
            text=b"unix" if plain is None else plain.encode("ascii"),
            place_key=0 if exempt else siphash24(_PLACES + client.key_bytes, self._secret),
        )

    def _make_client(self, client: str) -> Client:
        return Client(
            canonical(client) or client,
            client_bytes(client, *self._prefixes),
            allowed=client in self._allow,
            denied=client in self._deny,
        )
