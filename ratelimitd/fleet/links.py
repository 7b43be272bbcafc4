"""The links of one worker: one to each server of the store, and which of them has a key.

The supervisor says where the store is, each time it has reached it; what is not connected, or does not answer
any more, is dialled then, once. Without all of them the worker is not linked, and decides as if the store was
away.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.fleet.topology_values import Credentials, StoreServer, Topology

_NO_SLOTS: Final[tuple[int, ...]] = ()


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
        self._all: list[Link] = []  # by number of the server; empty unless each of them is there
        self._by_slot = _NO_SLOTS
        self._credentials: Credentials | None = None
        self._taking = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether every key can be asked for."""
        return bool(self._all)

    @property
    def pending(self) -> int:
        """Calls that were not answered."""
        return sum(link.pending for link in self._links.values())

    async def take(self, topology: Topology, credentials: Credentials, within_s: float) -> None:
        """Connects to what is not connected, and leaves what is gone. StoreFault: not to all of them."""
        async with self._taking:
            for server in list(self._links):
                if server not in topology.servers or credentials != self._credentials:
                    self._leave(server)
            self._credentials = credentials
            results = await asyncio.gather(
                *(self._reach(server, credentials, within_s) for server in topology.servers),
                return_exceptions=True,
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            # One may have been lost while another was dialled.
            if all(server in self._links for server in topology.servers):
                self._by_slot = _by_slot(topology)
                self._all = [self._links[server] for server in topology.servers]

    @property
    def only(self) -> Link | None:
        """The link to the one server that has every key, if there is one."""
        return self._all[0] if self._all and not self._by_slot else None

    def call(self, key: bytes, command: bytes, token: Any) -> None:
        """Queues a command for the server that has `key`. It goes nowhere unless the links are ready: whoever
        waits for an answer has a deadline, and was told of the loss."""
        if self._by_slot and self._all:
            self._all[self._by_slot[key_slot(key)]].call(command, token)
        elif self._all:
            self._all[0].call(command, token)

    def flush(self) -> None:
        for link in self._all:
            link.flush()

    def close(self) -> None:
        """Ends all of them; `lost` is not told."""
        for server in list(self._links):
            self._leave(server)

    def _leave(self, server: StoreServer) -> None:
        self._all = []
        self._links.pop(server).close()

    async def _reach(self, server: StoreServer, credentials: Credentials, within_s: float) -> None:
        """A link to `server`: the one that there is, if it still answers, else a new one."""
        link = self._links.get(server)
        if link is not None:
            try:
                async with asyncio.timeout(within_s):
                    await link.ask(self._loop, "PING")
                return
            except (StoreFault, TimeoutError):
                if self._links.get(server) is link:
                    self._leave(server)

        def lost(fault: StoreFault) -> None:
            if self._links.pop(server, None) is not None:
                self._all = []
                self._lost(fault)

        self._links[server] = await Link.open(self._loop, server, credentials, self._answered, lost, within_s)


def _by_slot(topology: Topology) -> tuple[int, ...]:
    """The number of the server of each slot; empty where one server has all keys."""
    if not topology.slots:
        return _NO_SLOTS
    by_slot = [0] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, number in topology.slots:
        by_slot[first : last + 1] = [number] * (last + 1 - first)
    return tuple(by_slot)
