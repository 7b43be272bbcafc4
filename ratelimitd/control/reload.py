"""Reload in two steps: read and have every worker prepare; only when all could, put it in force everywhere.

Until the second step nothing has changed, so a configuration that is wrong, or that one worker cannot use,
is refused whole and the old one stays. Reloads never overlap: whoever asks during one waits for one more.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec

from ratelimitd.config.model import Config
from ratelimitd.control import catalogue
from ratelimitd.control.difference import differences
from ratelimitd.control.resolve import check_upstreams
from ratelimitd.errors import RatelimitdError, StartError

if TYPE_CHECKING:
    from ratelimitd.control.access_log import AccessLogWriter, Destination
    from ratelimitd.control.journal import Journal
    from ratelimitd.control.listening import Listening, Prepared
    from ratelimitd.control.notify import Notifier
    from ratelimitd.control.reader import Reader
    from ratelimitd.control.status import Status
    from ratelimitd.control.workers import Workers
    from ratelimitd.segment.registry import Registry

logger = logging.getLogger(__name__)

# What is bound to processes, sockets and memory that a reload keeps.
NEEDS_RESTART: Final = ("workers", "store", "store_options", "admin", "journal")
_SHOWN: Final = 20  # differences that the log and the journal tell one by one


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a reload; `refusal` is empty when it was taken."""

    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refusal: str = ""


_ENDED: Final = Outcome(refusal="the daemon is draining")


class Reloader:
    """Takes the daemon from the configuration in force to the one that `reader` reads."""

    def __init__(
        self,
        config: Config,
        reader: Reader,
        workers: Workers,
        registry: Registry,
        access_log: AccessLogWriter,
        listening: Listening,
        status: Status,
        notifier: Notifier,
        journal: Journal,
    ) -> None:
        self.config = config  # the one in force
        self._reader = reader
        self._workers = workers
        self._registry = registry
        self._access_log = access_log
        self._listening = listening
        self._status = status
        self._notifier = notifier
        self._journal = journal
        self._generation = 0
        self._wanted = asyncio.Event()
        self._asking: list[asyncio.Future[Outcome]] = []
        self._requested = self._renewing = False
        self._ended = False

    def request(self) -> None:
        """Reload soon: what a signal calls."""
        self._requested = True
        self._wanted.set()

    def renew(self) -> None:
        """Have every worker compile the configuration in force anew, soon: it hashes with another secret."""
        self._renewing = True
        self._wanted.set()

    async def reload(self) -> Outcome:
        """Reload, and wait for what becomes of it."""
        if self._ended:
            return _ENDED
        asking: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._asking.append(asking)
        self.request()
        return await asking

    async def run(self) -> None:
        """Reload whenever it is asked for, for ever."""
        asking: list[asyncio.Future[Outcome]] = []
        try:
            while True:
                await self._reader.prepare()
                await self._wanted.wait()
                self._wanted.clear()
                if self._renewing:
                    await self._renew()
                if not self._requested:
                    continue
                self._requested = False
                asking, self._asking = self._asking, []
                outcome = await self._once()
                for future in asking:
                    if not future.done():
                        future.set_result(outcome)
        finally:
            await self._reader.close()
            self._ended = True
            for future in (*asking, *self._asking):
                if not future.done():
                    future.set_result(_ENDED)

    async def _renew(self) -> None:
        self._renewing = False
        self._generation += 1
        try:
            await self._workers.compile(msgspec.msgpack.encode(self.config), self._generation)
            await self._workers.swap()
        except StartError as error:
            logger.error("a worker cannot take up another hash secret: %s; restart the daemon", error)

    async def _once(self) -> Outcome:
        self._notifier.reloading()
        try:
            outcome = await self._reload()
        except RatelimitdError as error:
            outcome = Outcome(refusal=str(error))
        self._tell(outcome)
        self._notifier.reloaded(refused=outcome.refusal)
        return outcome

    def _tell(self, outcome: Outcome) -> None:
        self._status.reload_refusal = outcome.refusal
        if outcome.refusal:
            self._status.reloads["refused"] += 1
            logger.error("reload refused, the old configuration stays: %s", outcome.refusal)
            self._journal.note("reload_refused", f"reload refused: {outcome.refusal}")
            return
        self._status.reload_success_at_s = time.time()
        self._status.reloads["success"] += 1
        changes = list(outcome.changes)
        if len(changes) > _SHOWN:
            changes[_SHOWN:] = [f"and {len(changes) - _SHOWN} more changes"]
        logger.info("reloaded: %s", "; ".join(changes) or "nothing changed")
        self._journal.note("reload", f"reloaded: {'; '.join(changes) or 'nothing changed'}", changes=changes)

    async def _reload(self) -> Outcome:
        """RatelimitdError says why it was refused, and nothing has changed then."""
        reread = await self._reader.read()
        config = msgspec.msgpack.decode(reread.encoded, type=Config)
        fixed = [name for name in NEEDS_RESTART if getattr(config, name) != getattr(self.config, name)]
        if fixed:
            raise StartError(
                f"a change of {', '.join(fixed)} needs a restart ({'; '.join(_fixed(self.config, config))})"
            )
        await check_upstreams(config)
        changes = differences(self.config, config)
        destination, listeners = await self._prepare(config, reread.encoded)
        if destination is not None:
            self._access_log.use(destination)
        self._listening.use(listeners)
        self.config = config
        await self._workers.swap()
        self._listening.close_removed()
        self._tell_listeners()
        return Outcome(changes, reread.warnings)

    async def _prepare(self, config: Config, encoded: bytes) -> tuple[Destination | None, Prepared]:
        """All that can go wrong: open what it wants open, and have every worker compile it."""
        with contextlib.ExitStack() as opened:
            destination = await asyncio.to_thread(self._access_log.prepare, config.log)
            if destination is not None:
                opened.callback(destination.close)
            listeners = self._listening.prepare(config.listen)
            opened.callback(listeners.close)
            self._generation += 1
            catalogue.register(config, self._registry)
            await self._workers.compile(encoded, self._generation)
            opened.pop_all()
        return destination, listeners

    def _tell_listeners(self) -> None:
        self._status.listen = tuple(self._listening.addresses())
        self._notifier.serving = f"serving on {', '.join(self._status.listen)}"
        self._listening.warn_of_left()


def _fixed(old: Config, new: Config) -> tuple[str, ...]:
    """The differences of what needs a restart."""
    kept = {name: getattr(old, name) for name in old.__struct_fields__ if name not in NEEDS_RESTART}
    return differences(old, msgspec.structs.replace(new, **kept))
