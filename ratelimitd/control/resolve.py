"""Looks up names of web servers; `check_upstreams` all of them, before the daemon says that it is ready.

A name that does not resolve is almost always a mistake in the configuration; found at start it is a message,
found later it is an outage. Each name is asked for in a thread of its own, which nobody waits for: a name
server that is silent keeps the system's resolver for half a minute, and must hold up neither the end of the
daemon nor what else is done in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Final

from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from ratelimitd.config.model import Config, Server, Upstream

_PATIENCE_S: Final = 10


async def check_upstreams(config: Config) -> None:
    """Raise StartError for the first server, in the order of the configuration, whose name is unknown."""
    servers = [
        (upstream, server) for upstream in config.upstreams for server in upstream.servers if server.host
    ]
    answers = await asyncio.gather(*(_problem(upstream, server) for upstream, server in servers))
    for problem in answers:
        if problem:
            raise StartError(problem)


async def lookup(name: str) -> tuple[str, ...]:
    """All addresses of `name`, the best first. OSError when there are none, or none were told in time."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await _asked(name)
    except TimeoutError:
        raise OSError(0, f"no answer from the name server within {_PATIENCE_S} s") from None
    except UnicodeError as error:
        raise OSError(0, str(error)) from None


def _asked(name: str) -> asyncio.Future[tuple[str, ...]]:
    """What the system's resolver says of `name`, when it does."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[tuple[str, ...]] = loop.create_future()

    def tell(addresses: tuple[str, ...], error: Exception | None) -> None:
        if told.done():
            return  # it came too late
        if error is None:
            told.set_result(addresses)
        else:
            told.set_exception(error)

    def ask() -> None:
        addresses: tuple[str, ...] = ()
        failure: Exception | None = None
        try:
            answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in answers))
        except (OSError, UnicodeError) as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, addresses, failure)

    threading.Thread(target=ask, name=f"lookup of {name}", daemon=True).start()
    return told


async def _problem(upstream: Upstream, server: Server) -> str | None:
    try:
        await lookup(server.host)
    except OSError as error:
        why = error.strerror or str(error)
        if isinstance(error, socket.gaierror):
            why = why.lower()
    else:
        return None
    return (
        f"upstream {upstream.name}: the name {server.host!r} of {server.url} does not resolve ({why}); "
        "correct it, or give an address"
    )
