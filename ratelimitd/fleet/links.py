"""The links of one worker: one to each server of the store, and which of them has a key.

The supervisor says where the store is, each time it has reached it; what is not connected is dialled then,
once. Without all of them the worker is not linked, and decides as if the store was away.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.crc import key_slot

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.fleet.topology_values import Credentials, StoreServer, Topology


class Links:
    """`answered(token, reply)` and `lost(fault)` as those of a Link."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        answered: Callable[[Any, Any], None],
        lost: Callable[[StoreFault], None],
    ) -> None:
        self._loop = loop
        self._answered = answered
        self._lost = lost
        self._links: dict[StoreServer, Link] = {}
        self._all: list[Link] = []
        self._by_slot: list[int] = []

    @property
    def ready(self) -> bool:
        """Whether every key can be asked for."""
        return bool(self._all)

    async def take(self, topology: Topology, credentials: Credentials, within_s: float) -> None:
        """Connects to what is not connected, and leaves what is gone. StoreFault: not to all of them."""
        for server in [server for server in self._links if server not in topology.servers]:
            self._links.pop(server).close()
        for server in topology.servers:
            if server not in self._links:
                link = await self._open(server, credentials, within_s)
                self._links[server] = link
        self._all = [self._links[server] for server in topology.servers]
        self._by_slot = _by_slot(topology)

    async def _open(self, server: StoreServer, credentials: Credentials, within_s: float) -> Link:
        def lost(fault: StoreFault) -> None:
            self._links.pop(server, None)
            self._all = []
            self._lost(fault)

        return await Link.open(self._loop, server, credentials, self._answered, lost, within_s)

    def call(self, key: bytes, command: bytes, token: Any) -> None:
        """Queues a command for the server that has `key`."""
        link = self._all[self._by_slot[key_slot(key)]] if self._by_slot else self._all[0]
        link.call(command, token)

    def flush(self) -> None:
        for link in self._all:
            link.flush()

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._all = []


def _by_slot(topology: Topology) -> list[int]:
    """The index of the server of each slot; empty where there is one server for all."""
    if not topology.slots:
        return []
    by_slot = [0] * 16_384
    for first, last, index in topology.slots:
        by_slot[first : last + 1] = [index] * (last + 1 - first)
    return by_slot
