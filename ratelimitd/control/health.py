"""Active health checks: each server that has them is asked by itself, every so often, whether it is well.

A GET over a connection of its own; 2xx and 3xx are good, everything else, and no answer in time, is not. A
server that is given by name is asked where requests find it. `fall` bad ones in a row take a server down,
`rise` good ones bring it back; until the first verdict it counts as up. The verdict is a word in the segment
that every worker reads. A reload begins anew with what it changed and leaves the rest alone; a server that is
no longer checked counts as up.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import re
import ssl
from typing import TYPE_CHECKING, Any, Final

from ratelimitd.config.units import format_duration
from ratelimitd.errors import StartError
from ratelimitd.proxy.balancing import host_of
from ratelimitd.proxy.tls_context import connection_error, server_name, towards_servers
from ratelimitd.proxy.unreached import reason
from ratelimitd.segment.memory import boottime_us

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ratelimitd.config import model
    from ratelimitd.segment.servers import ServerWords

    Name = tuple[str, str]  # upstream, server: as in the configuration
    Verdict = Callable[[Name, str], None]

LOOK_EVERY_S: Final = 0.25
# Many daemons that start together must not ask together for ever.
_JITTER: Final = 0.1
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_GOOD: Final = range(200, 400)


@dataclasses.dataclass(frozen=True)
class _Check:
    """What is to be checked, and how."""

    name: Name
    server: model.Server
    health: model.Health
    tls: model.ServerTls


class HealthChecks:
    """The checks of the configuration in force. `words` gives a server's record in the segment, `addresses`
    those of a host; `tell` hears each change, with why a server is down, or with nothing when it is up."""

    def __init__(
        self,
        config: Callable[[], model.Config],
        words: Callable[[Name], ServerWords],
        addresses: Callable[[str], Awaitable[tuple[str, ...]]],
        tell: Verdict,
    ) -> None:
        self._config = config
        self._words = words
        self._addresses = addresses
        self._tell = tell
        self._contexts: dict[model.ServerTls, ssl.SSLContext] = {}
        self._tasks: dict[_Check, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Check for ever."""
        checked: model.Config | None = None
        try:
            while True:
                if checked is not self._config():
                    checked = self._config()
                    self._contexts.clear()  # the files of authorities are read anew
                    self._follow(checked)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            for task in self._tasks.values():
                task.cancel()

    def _follow(self, config: model.Config) -> None:
        """Check what `config` says, and nothing else."""
        wanted = {
            _Check((upstream.name, server.url), server, upstream.health, upstream.tls)
            for upstream in config.upstreams
            for server in upstream.servers
            if upstream.health is not None
        }
        for check in self._tasks.keys() - wanted:
            self._tasks.pop(check).cancel()
            if check.name not in {other.name for other in wanted} and self._words(check.name).is_down:
                self._words(check.name).forget()
                self._tell(check.name, "")
        for check in wanted - self._tasks.keys():
            self._tasks[check] = asyncio.ensure_future(self._watch(check))

    async def _watch(self, check: _Check) -> None:
        words = self._words(check.name)
        interval_s = check.health.interval_ms / 1000
        against = 0  # checks in a row that contradict what the server counts as
        await asyncio.sleep(random.uniform(0, min(interval_s, 1.0) / 4))
        while True:
            bad = await self._ask(check)
            against = against + 1 if bool(bad) != words.is_down else 0
            if bad and against >= check.health.fall:
                words.fell()
                self._tell(check.name, bad)
                against = 0
            elif not bad and against >= check.health.rise:
                words.rose(boottime_us())
                self._tell(check.name, "")
                against = 0
            await asyncio.sleep(interval_s * random.uniform(1 - _JITTER, 1 + _JITTER))

    async def _ask(self, check: _Check) -> str:
        """Why the server is not well; empty when it is."""
        try:
            async with asyncio.timeout(check.health.timeout_ms / 1000):
                status = await self._status(check)
        except TimeoutError as error:
            within = format_duration(check.health.timeout_ms)
            return reason(error) if error.errno else f"no answer to {check.health.path} within {within}"
        except ssl.SSLError as error:
            return reason(connection_error(error))
        except OSError as error:
            return reason(error)
        except StartError as error:
            return str(error)
        if status is None:
            return f"the answer to {check.health.path} is no HTTP"
        return "" if status in _GOOD else f"{status} for {check.health.path}"

    async def _status(self, check: _Check) -> int | None:
        """The status of its answer; None when that is none."""
        reader, writer = await self._open(check)
        try:
            writer.write(
                b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: ratelimitd-health\r\nConnection: close\r\n\r\n"
                % (check.health.path.encode(), host_of(check.server))
            )
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None
        finally:
            writer.close()
        found = _STATUS.match(head)
        return int(found[1]) if found else None

    async def _open(self, check: _Check) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        server = check.server
        if server.unix_path:
            return await asyncio.open_unix_connection(server.unix_path)
        if not server.tls:
            return await self._connect(server)
        context = self._contexts.get(check.tls)
        if context is None:
            context = await asyncio.to_thread(towards_servers, check.tls)
            self._contexts[check.tls] = context
        return await self._connect(server, ssl=context, server_hostname=server_name(server, check.tls))

    async def _connect(
        self, server: model.Server, **tls: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        *others, last = await self._addresses(server.host)
        for address in others:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(address, server.port, **tls)
        return await asyncio.open_connection(last, server.port, **tls)
