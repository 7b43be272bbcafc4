"""The sockets on which one worker accepts connections: the set that it was given last, and no other.

A socket is known by its inode, so that the same one, handed over again by a reload, stays as it is. One that
is not in the set any more is closed a moment later: connections that wait in its queue are accepted first,
since closing resets them. Connections that were accepted are never touched.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

# As large as the kernel allows: a surge waits in the queue of a socket, not in retransmitted SYNs.
BACKLOG: Final = 65_535
_MOMENT_S: Final = 0.05


class Accepting:
    """`protocols(bind)` makes, for a listener, what makes the protocol of each of its connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocols: Callable[[str], Callable[[], asyncio.BaseProtocol]],
    ) -> None:
        self._loop = loop
        self._protocols = protocols
        self._servers: dict[int, asyncio.Server] = {}
        self.binds: tuple[str, ...] = ()
        self._stopping = False
        self.stopped = False

    async def take(self, binds: Sequence[str], fds: Sequence[int]) -> None:
        """Accept on these sockets, which are ours from now on, and no longer on others."""
        self.binds = tuple(dict.fromkeys(binds))
        given = set()
        for bind, fd in zip(binds, fds, strict=True):
            sock = socket.socket(fileno=fd)
            inode = os.fstat(fd).st_ino
            if self._stopping or inode in self._servers:
                sock.close()
            else:
                self._servers[inode] = await self._listen(bind, sock)
            given.add(inode)
        gone = [self._servers.pop(inode) for inode in list(self._servers) if inode not in given]
        self._loop.call_later(_MOMENT_S, _close, gone)

    def stop(self, then: Callable[[], None]) -> None:
        """Accept what waits in the queues and nothing more; `then` is called when that is so."""

        def stop() -> None:
            _close(self._servers.values())
            self._servers.clear()
            self.stopped = True
            then()

        self._stopping = True
        self._loop.call_later(_MOMENT_S, stop)

    async def _listen(self, bind: str, sock: socket.socket) -> asyncio.Server:
        create = self._loop.create_unix_server if sock.family == socket.AF_UNIX else self._loop.create_server
        sock.setblocking(False)
        return await create(self._protocols(bind), sock=sock, backlog=BACKLOG)


def _close(servers: Iterable[asyncio.Server]) -> None:
    for server in servers:
        server.close()
