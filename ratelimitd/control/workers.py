"""Keeps the set of workers at its number: starts, watches, replaces, drains.

A worker that ends is replaced, at once the first two times in 10 s and more slowly after that. One whose
heartbeat is 3 s old is killed first. Its page is folded when it has been reaped and no sooner: until then it
may still count.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ratelimitd.control.life import Life, Worker
from ratelimitd.control.process import WorkerProcess, exit_text
from ratelimitd.errors import StartError
from ratelimitd.limits.inflight import InFlight
from ratelimitd.proxy.orders import (
    Addresses,
    Banned,
    Compile,
    Compiled,
    Drain,
    Drained,
    Failed,
    Ready,
    Refusals,
    Start,
    Stop,
    Store,
    StoreLost,
    Swap,
    Swapped,
    Unreached,
)
from ratelimitd.segment import layout
from ratelimitd.segment.memory import boottime_us
from ratelimitd.segment.pages import Page, fold

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ratelimitd.control.journal import Note
    from ratelimitd.control.listening import Listening
    from ratelimitd.proxy.orders import Message
    from ratelimitd.segment.memory import Segment

logger = logging.getLogger(__name__)

HEARTBEAT_BOUND_US: Final = 3_000_000
START_BOUND_US: Final = 30_000_000
CHECK_EVERY_S: Final = 0.25
BACKOFF_SPAN_US: Final = 10_000_000


@dataclasses.dataclass(frozen=True)
class _Generation:
    """A configuration and its number, counted from the start of the daemon."""

    number: int
    config: bytes  # msgpack, as workers get it


@dataclasses.dataclass(frozen=True)
class _Reload:
    """A step of a reload that workers have been asked for."""

    is_done: Callable[[Worker], bool]
    answered: asyncio.Future[None]


def replacement_delay_ms(deaths: int) -> int:
    """How long to wait before a replacement, by deaths of this worker in the last 10 s, this one included."""
    return 0 if deaths < 3 else min(2_000, int(100 * 2 ** min(deaths - 3, 10)))


class Workers:
    """The workers. `command` starts one; `listening` has the sockets on which they accept; `note` keeps
    what happens to them, `told` takes reports of those they meet: clients and web servers."""

    def __init__(
        self,
        command: Sequence[str],
        segment: Segment,
        count: int,
        listening: Listening,
        note: Note,
        told: Mapping[type[Message], Callable[[Any], None]],
    ) -> None:
        self._note = note
        self._told = told
        self._command = command
        self._segment = segment
        self._in_flight = InFlight(
            segment.memory, segment.inflight_offset, segment.pages, layout.SUPERVISOR_PAGE
        )
        self.count: Final = count
        self._listening = listening
        self._loop = asyncio.get_running_loop()
        self._workers: dict[int, Worker] = {}
        self._deaths: dict[int, deque[int]] = {index: deque() for index in range(count)}
        self._in_force = self._newest = _Generation(0, b"")
        self._reload: _Reload | None = None
        self._addresses = Addresses(())
        self._store: Store | None = None
        self._replacing = True
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._all_ended = asyncio.Event()
        self._checked_us = boottime_us()
        self._forgiven_us = 0
        self.restarts = 0

    async def start(self, config: bytes) -> None:
        """Start them all and wait until each accepts; StartError if one cannot."""
        self._in_force = self._newest = _Generation(0, config)
        for index in range(self.count):
            self._spawn(index)
        self._loop.call_later(CHECK_EVERY_S, self._check)
        await self._started

    async def compile(self, config: bytes, generation: int) -> None:
        """Have every worker prepare `config`; StartError, and nothing has changed, if one cannot."""
        self._newest = _Generation(generation, config)
        try:
            await self._reload_step(lambda worker: worker.compiled >= generation)
        except StartError:
            self._newest = self._in_force
            raise

    async def swap(self) -> None:
        """Put in force, in every worker, what `compile` prepared, and have them accept on the listeners that
        there are now; workers that start later begin with both, and one that cannot is replaced."""
        self._in_force = self._newest
        generation = self._in_force.number
        await self._reload_step(lambda worker: worker.swapped >= generation)

    def send_addresses(self, addresses: Addresses) -> None:
        """Tell every worker, and those that start later, where the servers that are given by name are."""
        self._addresses = addresses
        for worker in self._workers.values():
            worker.process.send(addresses)

    def send_store(self, store: Store) -> None:
        """Tell every worker that serves, and those that will, that the store was reached."""
        self._store = store
        for worker in self._workers.values():
            if worker.life is Life.SERVING:
                worker.process.send(store)

    def serving(self) -> int:
        """How many accept connections."""
        return sum(worker.life is Life.SERVING for worker in self._workers.values())

    def pages(self) -> list[tuple[int, Page]]:
        """Index and page of every worker that has not been reaped."""
        return [(worker.index, worker.page) for worker in self._workers.values()]

    def own_pages(self) -> list[Page]:
        """The page of every worker that has not been reaped."""
        return [worker.page for worker in self._workers.values()]

    def all(self) -> list[Worker]:
        """Every worker that has not been reaped, by index."""
        return sorted(self._workers.values(), key=lambda worker: worker.index)

    def drain(self) -> None:
        """Let all finish what they have; none is replaced any more."""
        self._replacing = False
        for worker in list(self._workers.values()):
            if worker.life in {Life.STARTING, Life.SERVING}:
                worker.move(Life.DRAINING)
                worker.process.send(Drain())
        self._note_end()

    def stop(self) -> None:
        """Ask all to end at once."""
        self._replacing = False
        for worker in self._workers.values():
            worker.process.send(Stop())
        self._note_end()

    def kill(self) -> None:
        """End all, whatever they do."""
        self._replacing = False
        for worker in self._workers.values():
            if worker.life is not Life.KILLED:
                worker.move(Life.KILLED)
                worker.process.kill()
        self._note_end()

    async def ended(self) -> None:
        """Wait until the last one has been reaped, after `drain`, `stop` or `kill`."""
        await self._all_ended.wait()

    def _spawn(self, index: int) -> None:
        if not self._replacing:
            return
        try:
            process = WorkerProcess(
                self._command,
                self._segment.fd,
                self._loop,
                on_report=lambda report: self._reported(worker, report),
                on_exit=lambda status: self._exited(worker, status),
            )
        except OSError as error:
            self._spawn_failed(index, error)
            return
        page_index = self._free_page()
        page = self._segment.page(page_index)
        page.claim(process.pid)
        number = self._in_force.number
        worker = Worker(
            index, process, page_index, page, boottime_us(), asked_compile=number, asked_swap=number
        )
        self._workers[index] = worker
        binds, descriptors = self._sockets_for(worker)
        process.send(Start(self._in_force.config, page_index, binds, number, self._store), descriptors)
        if self._addresses.names:
            process.send(self._addresses)

    def _sockets_for(self, worker: Worker) -> tuple[tuple[str, ...], list[int]]:
        """What it accepts on now: the listeners and their descriptors."""
        worker.listening = self._listening.version
        pairs = self._listening.for_worker(worker.index)
        return tuple(bind for bind, _ in pairs), [descriptor for _, descriptor in pairs]

    def _spawn_failed(self, index: int, error: OSError) -> None:
        message = f"worker {index} cannot be started: {error.strerror}"
        if not self._started.done():
            self._started.set_exception(StartError(message))
            return
        logger.error("%s; the next attempt is in 2 s", message)
        self._loop.call_later(2, self._spawn, index)

    def _free_page(self) -> int:
        for index in range(layout.FIRST_WORKER_PAGE, self._segment.pages):
            if not self._segment.page(index).owner:
                return index
        raise AssertionError("the segment has a page for every worker that is not reaped")

    def _reported(self, worker: Worker, report: Message) -> None:
        match report:
            case Ready() if worker.life is Life.STARTING:
                worker.move(Life.SERVING)
                worker.compiled = worker.swapped = worker.asked_swap
                self._update(worker)
                if self._store is not None:
                    worker.process.send(self._store)
                self._note_ready(worker)
            case Failed():
                self._failed(worker, report)
            case Compiled(generation=generation):
                worker.compiled = generation
                self._note_reload()
            case Swapped(generation=generation):
                worker.swapped = generation
                self._note_reload()
            case Drained():
                logger.info("worker %d (pid %d) has drained", worker.index, worker.process.pid)
            case Refusals() | Banned() | StoreLost() | Unreached():
                self._told[type(report)](report)
            case _:
                pass

    def _note_ready(self, worker: Worker) -> None:
        if self._started.done():
            logger.info("worker %d (pid %d) accepts connections", worker.index, worker.process.pid)
        elif self.serving() == self.count:
            self._started.set_result(None)

    def _failed(self, worker: Worker, failed: Failed) -> None:
        if worker.life is Life.STARTING and not self._started.done():
            self._started.set_exception(StartError(failed.message))
        elif worker.life is Life.STARTING:
            self._kill_failed(worker, "cannot start", failed)
        elif failed.generation == self._in_force.number:
            self._kill_failed(worker, "cannot use the configuration in force", failed)
        elif failed.generation == self._newest.number:
            self._refuse_reload(failed.message)
        # Else it is late: that reload was refused for another worker's failure.

    def _refuse_reload(self, message: str) -> None:
        if self._reload is not None and not self._reload.answered.done():
            self._reload.answered.set_exception(StartError(message))

    def _kill_failed(self, worker: Worker, what: str, failed: Failed) -> None:
        if worker.life in {Life.STARTING, Life.SERVING}:
            logger.error("worker %d (pid %d) %s: %s", worker.index, worker.process.pid, what, failed.message)
            worker.move(Life.KILLED)
            worker.process.kill()

    def _exited(self, worker: Worker, status: int) -> None:
        expected = worker.life is Life.DRAINING or not self._replacing
        worker.move(Life.ENDED)
        fold(worker.page, self._segment.page(layout.BASE_PAGE), self._segment.registry.all_series())
        self._forget_in_flight(worker.page_index)
        del self._workers[worker.index]
        self._note_reload()
        how = exit_text(status)
        if not self._started.done() and self._replacing:
            self._started.set_exception(
                StartError(
                    f"worker {worker.index} {how} before it served; its own message is above, if it had one"
                )
            )
        elif not expected:
            self._replace(worker, how)
        self._note_end()

    def _forget_in_flight(self, page_index: int) -> None:
        """What the ended process held is free again. A lock whose holder is stopped is waited for; a new
        process on the page forgets by itself before it serves."""
        if self._segment.page(page_index).owner == 0 and not self._in_flight.clear(page_index):
            self._loop.call_later(CHECK_EVERY_S, self._forget_in_flight, page_index)

    def _replace(self, worker: Worker, how: str) -> None:
        self.restarts += 1
        now_us = boottime_us()
        deaths = self._deaths[worker.index]
        deaths.append(now_us)
        while deaths[0] < now_us - BACKOFF_SPAN_US:
            deaths.popleft()
        delay_ms = replacement_delay_ms(len(deaths))
        when = f"in {delay_ms} ms" if delay_ms else "now"
        message = f"worker {worker.index} (pid {worker.process.pid}) {how}; a new one is started {when}"
        logger.warning("%s", message)
        self._note("worker_replaced", message, worker=worker.index, pid=worker.process.pid, cause=how)
        self._loop.call_later(delay_ms / 1000, self._spawn, worker.index)

    async def _reload_step(self, is_done: Callable[[Worker], bool]) -> None:
        self._reload = _Reload(is_done, self._loop.create_future())
        for worker in self._workers.values():
            if worker.life is Life.SERVING:
                self._update(worker)
        self._note_reload()
        try:
            await self._reload.answered
        finally:
            self._reload = None

    def _update(self, worker: Worker) -> None:
        """Ask a worker that serves for what it was not asked for yet."""
        if worker.asked_compile != self._newest.number:
            worker.asked_compile = self._newest.number
            worker.process.send(Compile(self._newest.config, self._newest.number))
        if worker.asked_swap != self._in_force.number:
            worker.asked_swap = self._in_force.number
            if worker.listening == self._listening.version:
                worker.process.send(Swap(self._in_force.number))
            else:
                binds, descriptors = self._sockets_for(worker)
                worker.process.send(Swap(self._in_force.number, binds), descriptors)

    def _note_reload(self) -> None:
        """A step of a reload is over when all that serve have answered; one that starts is asked later."""
        if self._reload is None or self._reload.answered.done():
            return
        serving = [worker for worker in self._workers.values() if worker.life is Life.SERVING]
        if all(self._reload.is_done(worker) for worker in serving):
            self._reload.answered.set_result(None)

    def _note_end(self) -> None:
        if not self._replacing and not self._workers:
            self._all_ended.set()

    def _check(self) -> None:
        """Kill those that give no sign of life."""
        now_us = boottime_us()
        # If this process itself stood still (a suspended machine, SIGSTOP), so may the workers have:
        # they get the full span from now on to show that they live.
        if now_us - self._checked_us > 4 * CHECK_EVERY_S * 1e6:
            self._forgiven_us = now_us
        self._checked_us = now_us
        for worker in self._workers.values():
            silent_us = self._silent_us(worker, now_us)
            bound_us = START_BOUND_US if worker.life is Life.STARTING else HEARTBEAT_BOUND_US
            if silent_us > bound_us and worker.life is not Life.KILLED:
                message = (
                    f"worker {worker.index} (pid {worker.process.pid}) gave no sign of life for "
                    f"{silent_us / 1e6:.1f} s: killed"
                )
                logger.error("%s", message)
                self._note("worker_hung", message, worker=worker.index, pid=worker.process.pid)
                worker.move(Life.KILLED)
                worker.process.kill()
        if not self._all_ended.is_set():
            self._loop.call_later(CHECK_EVERY_S, self._check)

    def _silent_us(self, worker: Worker, now_us: int) -> int:
        heartbeat_us = 0 if worker.life is Life.STARTING else worker.page.heartbeat_us
        return now_us - max(heartbeat_us, worker.since_us, self._forgiven_us)
