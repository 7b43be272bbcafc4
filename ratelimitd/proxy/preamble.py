"""What a connection begins with before its first request, by the configuration in force when it is accepted.

Most listeners have no preamble: their connections speak HTTP from the first byte and cost nothing here.
Others begin with a PROXY header, a TLS handshake, or both. A reload changes what new connections begin with
and which certificates they get; those that are open stay as they are.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ratelimitd.proxy.client import ClientConnection
from ratelimitd.proxy.proxy_header import ProxyHeaderReader
from ratelimitd.proxy.tls import TlsAcceptor
from ratelimitd.proxy.tls_context import towards_clients

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Iterable

    from ratelimitd.config import model
    from ratelimitd.proxy.live import Listener, Policy


@dataclasses.dataclass(frozen=True, slots=True)
class Preamble:
    """What one listener's connections begin with."""

    proxy_protocol: bool
    tls: ssl.SSLContext | None

    def protocol(self, listener: Listener, source: str | None = None) -> asyncio.BaseProtocol:
        """What serves a connection once its peer is known."""
        if self.tls is None:
            return ClientConnection(listener, source)
        return TlsAcceptor(listener, self.tls, ClientConnection(listener, source, b"https"))


def compile_preambles(listeners: Iterable[model.Listener]) -> dict[str, Preamble]:
    """By `bind`, those listeners that have one."""
    return {
        listener.bind: Preamble(
            listener.proxy_protocol, towards_clients(listener.tls) if listener.tls else None
        )
        for listener in listeners
        if listener.proxy_protocol or listener.tls
    }


def keep_for_gone(policy: Policy, old: Policy, gone: Iterable[str]) -> None:
    """What waits in the queue of a listener that is gone is accepted yet, as it was meant."""
    policy.preambles.update({bind: old.preambles[bind] for bind in gone if bind in old.preambles})


def accepted(listener: Listener) -> asyncio.BaseProtocol:
    """The protocol of a connection that has just been accepted."""
    preamble = listener.live.policy.preambles.get(listener.bind)
    if preamble is None:
        return ClientConnection(listener)
    if preamble.proxy_protocol:
        return ProxyHeaderReader(listener, lambda source: preamble.protocol(listener, source))
    return preamble.protocol(listener)
