"""Where the web servers are that have names instead of addresses, as the supervisor last told this worker.

Until it has told, the name itself is used. New connections go to the addresses of a name in turn; one that
lies idle at an address that is none of the server's any more is closed, one in use is not used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ratelimitd.proxy.live import Policy
    from ratelimitd.proxy.orders import Addresses


class Names:
    """Addresses by name."""

    def __init__(self) -> None:
        self._addresses: dict[str, tuple[str, ...]] = {}

    def take(self, order: Addresses, policy: Policy | None) -> None:
        """What the supervisor tells; `policy` is the one in force, None before there is one."""
        self._addresses = dict(order.names)
        for upstream in {route.upstream for route in policy.routes} if policy is not None else ():
            for server in upstream.balancer.servers:
                addresses = self._addresses.get(server.address.host)
                if addresses:
                    for connection in [one for one in server.connections if one.address not in addresses]:
                        connection.retire()

    def in_turn(self, host: str) -> tuple[str, ...]:
        """The addresses of `host` to try, another one first each time; there is one at least."""
        addresses = self._addresses.get(host)
        if not addresses:
            return (host,)
        self._addresses[host] = (*addresses[1:], addresses[0])
        return addresses
