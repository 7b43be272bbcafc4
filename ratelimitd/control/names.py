"""Looks the names of the web servers up again, every few seconds and soon after one could not be reached.

All addresses of a name are addresses of one server. Workers are told when they change and use the new ones
from the next connection on; what is under way is finished. A lookup that fails changes nothing and is said
once: a name server that is down must not take the web servers along.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from typing import TYPE_CHECKING, Final

from ratelimitd.control.resolve import lookup
from ratelimitd.proxy.orders import Addresses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ratelimitd.config.model import Config
    from ratelimitd.control.journal import Note

logger = logging.getLogger(__name__)

EVERY_S: Final = 5.0
SOON_S: Final = 1.0


class Names:
    """The names in the configuration in force. `resolve` finds out where they are, `send` tells workers."""

    def __init__(
        self,
        config: Callable[[], Config],
        send: Callable[[Addresses], None],
        note: Note,
        resolve: Callable[[str], Awaitable[tuple[str, ...]]] = lookup,
    ) -> None:
        self._config = config
        self._send = send
        self._note = note
        self._resolve = resolve
        self._known: dict[str, tuple[str, ...]] = {}
        self._failing: set[str] = set()
        self._wanted = asyncio.Event()

    def hurry(self) -> None:
        """A server could not be reached: it may be elsewhere now."""
        self._wanted.set()

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Where `host` was found last, as workers know it; looked for now, if it never was."""
        if _is_address(host):
            return (host,)
        return self._known.get(host) or await self._resolve(host)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(SOON_S)
            # Not wait_for, which forgets that it is cancelled when the event comes in the same moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S - SOON_S):
                    await self._wanted.wait()
            self._wanted.clear()

    async def look(self) -> None:
        """Look each name up, and tell what has changed."""
        names = sorted(
            {
                server.host
                for upstream in self._config().upstreams
                for server in upstream.servers
                if server.host and not _is_address(server.host)
            }
        )
        found = await asyncio.gather(*(self._find(name) for name in names))
        known = dict(zip(names, found, strict=True))
        changed = {name for name in names if set(known[name]) != set(self._known.get(name, ()))}
        for name in sorted(changed & self._known.keys()):
            self._tell_moved(name, self._known[name], known[name])
        forgotten = self._known.keys() - known.keys()
        self._known = {name: known[name] if name in changed else self._known[name] for name in names}
        if changed or forgotten:
            self._send(Addresses(tuple(self._known.items())))

    async def _find(self, name: str) -> tuple[str, ...]:
        """Where `name` is; where it was, when that cannot be found out."""
        try:
            addresses = await self._resolve(name)
        except OSError as error:
            if name not in self._failing:
                self._failing.add(name)
                kept = self._known.get(name, ())
                message = f"the name {name!r} of a web server does not resolve: {error.strerror or error}"
                logger.warning(
                    "%s; %s", message, f"{', '.join(kept)} stays in use" if kept else "is it right?"
                )
                self._note("name_lost", message, name=name)
            return self._known.get(name, ())
        if name in self._failing:
            self._failing.remove(name)
            logger.info("the name %r of a web server resolves again", name)
        return addresses

    def _tell_moved(self, name: str, before: tuple[str, ...], now: tuple[str, ...]) -> None:
        message = f"the web server {name!r} is now at {', '.join(now)} (was {', '.join(before)})"
        logger.info("%s", message)
        self._note("name_changed", message, name=name, addresses=list(now))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
