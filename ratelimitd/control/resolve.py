"""Looks up the names of the upstreams' servers once, before the daemon says that it is ready.

A name that does not resolve is almost always a mistake in the configuration; found at start it is a message,
found later it is an outage.
"""

from __future__ import annotations

import asyncio
import socket
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


async def _problem(upstream: Upstream, server: Server) -> str | None:
    lookup = asyncio.get_running_loop().getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    try:
        await asyncio.wait_for(lookup, _PATIENCE_S)
    except TimeoutError:
        why = f"no answer from the name server within {_PATIENCE_S} s"
    except (socket.gaierror, UnicodeError) as error:
        why = error.strerror.lower() if isinstance(error, socket.gaierror) and error.strerror else str(error)
    else:
        return None
    return (
        f"upstream {upstream.name}: the name {server.host!r} of {server.url} does not resolve ({why}); "
        "correct it, or give an address"
    )
