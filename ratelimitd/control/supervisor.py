"""The supervisor: puts the parts of the daemon together and takes them through its life.

STARTING -> SERVING -> DRAINING -> gone. It starts whole or not at all: sockets, segment, admin server and
every worker, then it says that it is ready. TERM or INT drains, a second one ends at once. Nothing on the way
of a request runs here, so nothing here can slow one down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ratelimitd import __version__
from ratelimitd.config.flags import Flags
from ratelimitd.control import catalogue, log
from ratelimitd.control.access_log import AccessLogWriter
from ratelimitd.control.admin import AdminServer
from ratelimitd.control.api import Api, Parts
from ratelimitd.control.census import Census
from ratelimitd.control.changes import Changes
from ratelimitd.control.cpus import available_cpus
from ratelimitd.control.health import HealthChecks
from ratelimitd.control.inherited import Inherited
from ratelimitd.control.journal import Journal
from ratelimitd.control.keyring import Keyring
from ratelimitd.control.keytexts import Texts
from ratelimitd.control.listening import Listening
from ratelimitd.control.names import Names
from ratelimitd.control.notify import Notifier
from ratelimitd.control.places import Places
from ratelimitd.control.pressure import Sampler
from ratelimitd.control.reader import Reader
from ratelimitd.control.reload import Reloader
from ratelimitd.control.resolve import check_upstreams
from ratelimitd.control.status import State, Status, Views
from ratelimitd.control.store import Store
from ratelimitd.control.store_parts import joined, new_store
from ratelimitd.control.store_report import no_store
from ratelimitd.control.tasks import cancelled
from ratelimitd.control.upstream_states import UpstreamStates
from ratelimitd.control.workers import Workers
from ratelimitd.errors import RatelimitdError
from ratelimitd.limits.inflight import InFlight
from ratelimitd.limits.table import Table
from ratelimitd.proxy.orders import Banned, Refusals, StoreLost, Unreached
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ratelimitd.config.model import Config
    from ratelimitd.proxy.orders import Message

logger = logging.getLogger(__name__)

# -P: the directory that the daemon is started in must not be able to put its own modules into a worker.
WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "ratelimitd.proxy.worker")
_STOP_S: Final = 1.0


def run(
    config: Config,
    config_path: str | None,
    flags: Flags | None = None,
    *,
    command: Sequence[str] = WORKER_COMMAND,
) -> int:
    """Serve until a signal ends it. The exit code: 0 after a drain, 1 when it cannot start.

    `config` is what the file at `config_path` and `flags` make; a reload reads the file again.
    """
    log.configure()
    try:
        asyncio.run(Supervisor(config, config_path, flags, command).run())
    except RatelimitdError as error:
        logger.error("cannot start: %s", error)
        return 1
    return 0


class Supervisor:
    """One daemon. `command` starts a worker."""

    def __init__(
        self, config: Config, config_path: str | None, flags: Flags | None, command: Sequence[str]
    ) -> None:
        self._config = config
        self._config_path = config_path
        self._flags = flags
        self._command = command
        self._status = Status(config_path=os.path.abspath(config_path) if config_path else "")
        self._journal = Journal(config.journal)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._notifier = Notifier(os.environ)

    async def run(self) -> None:
        """From the first check to the last worker's end. StartError when it cannot serve."""
        self._journal.open()
        try:
            await self._run()
        except RatelimitdError as error:
            self._journal.note("stop", f"cannot start: {error}")
            raise
        finally:
            self._journal.close()

    async def _run(self) -> None:
        asyncio.get_running_loop().set_exception_handler(_log_bug)
        self._handle_signals()
        if not await self._before_a_signal(check_upstreams(self._config)):
            pass
        elif self._config.store == "memory":
            await self._run_checked(None)
        else:
            store = new_store(self._config, self._journal.note)
            if await self._before_a_signal(store.start()):
                await self._run_checked(store)
            await store.close()
        logger.info("stopped")
        self._journal.note("stop", "stopped")

    async def _run_checked(self, store: Store | None) -> None:
        """Everything opened, served, and closed again."""
        _raise_file_limit(self._config.bounds.connections)
        count = self._config.workers or available_cpus()
        segment, table = _new_segment(self._config, count, store.secret if store else None)
        with contextlib.closing(self._listen(count)) as listening:
            texts = Texts()
            upstreams = UpstreamStates(
                lambda: reloader.config,
                lambda: views.server_totals("ratelimitd_upstream_requests_total"),
                segment.server_named,
                self._journal.note,
            )

            def unreached(report: Unreached) -> None:
                upstreams.take(report)
                names.hurry()

            told: dict[type[Message], Callable[[Any], None]] = {Refusals: texts.take, Unreached: unreached}
            changes = self._changes(store, segment, table, lambda: reloader.config)
            if store is not None and changes is not None:
                told |= {StoreLost: store.take_report, Banned: changes.banned}
            workers = Workers(*(self._command, segment, count, listening, self._journal.note), told)
            names = Names(lambda: reloader.config, workers.send_addresses, self._journal.note)
            health = HealthChecks(
                lambda: reloader.config, segment.server_named, names.addresses, upstreams.checked
            )
            census = Census(segment, table)
            access_log = self._open_access_log(segment)
            reloader = self._reloader(workers, segment, access_log, listening)
            sampler = Sampler(
                segment, workers.own_pages, lambda: reloader.config.shedding, self._journal.note
            )
            if store is not None and changes is not None:
                store.join(joined(segment, table, workers, reloader, changes))
            views = Views(
                *(self._status, segment, workers, census, access_log, sampler, upstreams),
                store.report if store else no_store,
            )
            keyring = Keyring(segment, table, texts, lambda: reloader.config, changes)
            parts = Parts(
                *(self._status, segment, workers, census, views, keyring, self._journal, reloader),
                *(self._end, sampler, upstreams, changes),
            )
            admin = AdminServer(views.pages() | Api(parts).pages())
            try:
                await admin.open(self._config.admin)
                self._notifier.starting(f"starting {count} workers")
                if await self._before_a_signal(workers.start(msgspec.msgpack.encode(self._config))):
                    self._announce(listening, count, admin.addresses)
                    watchdog = asyncio.ensure_future(self._ping_watchdog())
                    works = (census, sampler, upstreams, health, names, *((store,) if store else ()))
                    await self._serve(reloader, *(work.run() for work in works))
                    await self._drain(workers, listening, reloader.config.timeouts.drain_ms / 1000)
                    watchdog.cancel()
            finally:
                workers.kill()
                await workers.ended()
                await admin.close()
                await asyncio.to_thread(access_log.close)

    def _changes(
        self, store: Store | None, segment: Segment, table: Table, config: Callable[[], Config]
    ) -> Changes | None:
        """How bans and resets of keys reach the other nodes."""
        if store is None:
            return None
        places = Places(segment, table, config)
        prefix = self._config.store_options.prefix
        return Changes(places, prefix, self._journal.note, store.hurry, lambda: store.is_up)

    def _listen(self, count: int) -> Listening:
        listening = Listening.open(self._config.listen, count, Inherited.from_environ(os.environ))
        listening.warn_of_left()
        return listening

    async def _before_a_signal(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether `work` was done; False when a signal asked for the end first."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        done, pending = await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        await cancelled(pending)
        if task in done:
            task.result()
        return task in done

    def _announce(self, listening: Listening, count: int, admin_addresses: Sequence[str]) -> None:
        self._status.state = State.SERVING
        self._status.listen, self._status.admin = tuple(listening.addresses()), tuple(admin_addresses)
        where = ", ".join(listening.addresses())
        logger.info("serving on %s with %d workers, pid %d", where, count, os.getpid())
        if admin_addresses:
            logger.info("admin on %s", ", ".join(admin_addresses))
        self._journal.note(
            "ready", f"serving on {where} with {count} workers", version=__version__, pid=os.getpid()
        )
        self._notifier.ready(f"serving on {where}")

    async def _serve(self, reloader: Reloader, *works: Coroutine[Any, Any, None]) -> None:
        """Do `works` until a signal asks for the end."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.request)
        tasks = [asyncio.ensure_future(work) for work in (reloader.run(), *works)]
        await self._stop.wait()
        await cancelled(tasks)

    def _reloader(
        self, workers: Workers, segment: Segment, access_log: AccessLogWriter, listening: Listening
    ) -> Reloader:
        reader = Reader(self._config_path, self._flags or Flags())
        return Reloader(
            *(self._config, reader, workers, segment.registry, access_log, listening),
            *(self._status, self._notifier, self._journal),
        )

    def _open_access_log(self, segment: Segment) -> AccessLogWriter:
        rings = [segment.ring(index) for index in range(layout.FIRST_WORKER_PAGE, segment.pages)]
        access_log = AccessLogWriter(rings, self._config.log)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, access_log.reopen)
        return access_log

    async def _drain(self, workers: Workers, listening: Listening, drain_s: float) -> None:
        self._status.state = State.DRAINING
        self._notifier.stopping(
            f"draining: no new connections, up to {drain_s:g} s for what is under way",
            within_us=int((drain_s + 2 * _STOP_S) * 1_000_000),
        )
        logger.info("draining: no new connections, up to %g s for what is under way", drain_s)
        self._journal.note("drain", f"draining: up to {drain_s:g} s for what is under way")
        workers.drain()
        listening.close()
        ended = asyncio.ensure_future(workers.ended())
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({ended, hurry}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if ended.done():
            logger.info("drained")
            return
        why = "a second signal came" if self._hurry.is_set() else f"{drain_s:g} s are over"
        logger.warning("%s: what is still under way is cut off", why)
        workers.stop()
        await asyncio.wait({ended}, timeout=_STOP_S)
        ended.cancel()

    async def _ping_watchdog(self) -> None:
        while self._notifier.watchdog_s is not None:
            self._notifier.alive()
            await asyncio.sleep(self._notifier.watchdog_s / 2)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_asked, number)
        for number, what in (
            (signal.SIGHUP, "reload during the start"),
            (signal.SIGUSR1, "reopening logs during the start"),
            (signal.SIGUSR2, "upgrade in place"),
        ):
            loop.add_signal_handler(number, _not_supported, number, what)

    def _stop_asked(self, number: signal.Signals) -> None:
        logger.info("%s received", number.name)
        self._end()

    def _end(self) -> None:
        """Drain; asked for the second time, end at once."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()


def _new_segment(config: Config, workers: int, secret: bytes | None) -> tuple[Segment, Table]:
    # A worker that is being replaced keeps its page until it is reaped.
    segment = Segment.create(config.store_options.entries, layout.FIRST_WORKER_PAGE + 2 * workers, secret)
    shape = segment.table
    table = Table(segment.memory, shape.offset, shape.stripes, shape.buckets_per_stripe)
    table.initialise()
    InFlight(segment.memory, segment.inflight_offset, segment.pages, layout.SUPERVISOR_PAGE).initialise()
    catalogue.register(config, segment.registry)
    return segment, table


def _raise_file_limit(connections: int) -> None:
    """Take all descriptors that this process may have, for its workers, and say when they are too few."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = 2 * connections + 100  # a client's connection, and one to a web server
    if most != resource.RLIM_INFINITY and most < needed:
        logger.warning(
            "only %d open files are allowed, bounds.connections of %d may need %d: raise LimitNOFILE= of the "
            "service (`ulimit -Hn`)",
            *(most, connections, needed),
        )


def _not_supported(number: signal.Signals, what: str) -> None:
    logger.warning("%s received: %s is not supported by this version; nothing was changed", number.name, what)


def _log_bug(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What no code of ours caught is a mistake of ours: one line, and the daemon goes on."""
    logger.error("unexpected: %s: %r", context["message"], context.get("exception"))
