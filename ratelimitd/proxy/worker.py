"""The program of a worker: it accepts, decides and forwards, and does nothing else.

A fresh program, started by the supervisor with two descriptors: its channel and the shared segment. It loads
all that it needs before it takes the first order. Signals that mean something to the supervisor are ignored
here; when the channel closes, whatever closed it, the worker stops accepting and finishes what it has.
"""

from __future__ import annotations

import argparse
import asyncio
import email.utils
import gc
import os
import resource
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uvloop

from ratelimitd.config.model import Config
from ratelimitd.errors import RatelimitdError, SegmentError
from ratelimitd.limits.decision import take_bans
from ratelimitd.limits.inflight import InFlight
from ratelimitd.limits.table import Table, siphash24
from ratelimitd.overload.gate import Gate
from ratelimitd.proxy import measures, orders
from ratelimitd.proxy.accepting import Accepting
from ratelimitd.proxy.admission import Admission
from ratelimitd.proxy.asking import Asking
from ratelimitd.proxy.backlog import Backlog
from ratelimitd.proxy.channel import Channel
from ratelimitd.proxy.compiling import Compiler
from ratelimitd.proxy.deadlines import Wheel
from ratelimitd.proxy.live import Listener, Live, Policy
from ratelimitd.proxy.names import Names
from ratelimitd.proxy.preamble import accepted, keep_for_gone
from ratelimitd.proxy.shedding import Follower, Median
from ratelimitd.proxy.ticks import Ticks
from ratelimitd.proxy.turns import Turns
from ratelimitd.proxy.unreached import Unreached
from ratelimitd.segment.memory import Segment, boottime_us
from ratelimitd.segment.shedding import ShedWords

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.segment.pages import Page

TICK_MS: Final = 50
MOST_MISSED: Final = 20  # ticks
CLEAR_TRIES: Final = 200
TELL_MS: Final = 1_000
# Requests that wait hold objects that a collection would only walk over.
MOST_YOUNG: Final = 10_000
# No limit has the id 0, so no key of a limit is this one, and `x` is that of one client's connections.
ALL_CONNECTIONS: Final = b"\0\0t"
MOST_DESCRIPTORS: Final = 1 << 30  # "unlimited" is a number that fits into an int
_IGNORED: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


class Worker:
    """One worker process, from its first order to its end."""

    def __init__(self, segment: Segment, control: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._segment = segment
        self._loop = loop
        self._ended: asyncio.Future[None] = loop.create_future()
        self._channel = Channel(control, loop, self._ordered, self._drain)
        self._accepting = Accepting(loop, self._protocols)
        self._config: Config | None = None
        self._compiled: tuple[int, Config, Policy] | None = None
        # What is asked of a reload is done in its order: to compile takes a while, and a worker that has just
        # become ready is told to compile and to swap in one breath.
        self._reloading = asyncio.Lock()
        self._drain_by_us = 0
        self._lag = Median()
        self._backlog = Backlog(loop)
        self._ticks: Ticks | None = None
        self._follower: Follower
        self._tell_at_us = 0
        self._unreached = Unreached()
        self._names = Names()
        self._asking: Asking | None = None
        self._page: Page
        self._live: Live
        self._compiler: Compiler

    async def run(self) -> None:
        await self._ended

    def _ordered(self, order: orders.Message, fds: list[int]) -> None:
        match order:
            case orders.Start():
                self._loop.create_task(self._start(order, fds))
            case orders.Compile():
                self._loop.create_task(self._compile(order))
            case orders.Swap():
                self._loop.create_task(self._swap(order, fds))
            case orders.Addresses():
                self._names.take(order, self._live.policy if self._ticks is not None else None)
            case orders.Store() if self._asking is not None:
                self._asking.take(order)
            case orders.Drain():
                self._drain()
            case orders.Stop():
                self._end()
            case _:
                pass  # what workers say is not said to them

    async def _start(self, order: orders.Start, fds: list[int]) -> None:
        try:
            await self._serve(order, fds)
        except (RatelimitdError, OSError) as error:
            self._channel.send(orders.Failed(f"cannot serve: {error}", order.generation))
            self._end()
            return
        self._channel.send(orders.Ready())

    async def _serve(self, order: orders.Start, fds: list[int]) -> None:
        segment = self._segment
        self._page = segment.page(order.page)
        self._config = msgspec.msgpack.decode(order.config, type=Config)
        shape = segment.table
        table = Table(segment.memory, shape.offset, shape.stripes, shape.buckets_per_stripe)
        inflight = InFlight(segment.memory, segment.inflight_offset, segment.pages, order.page)
        await _clear(inflight, order.page)
        wheel = Wheel(TICK_MS)
        gate = Gate(self._page.arrivals, int.from_bytes(os.urandom(8)))
        self._follower = Follower(ShedWords(segment.memory), gate)
        counters = measures.measures(segment.registry)
        total_key = siphash24(ALL_CONNECTIONS, segment.secret)
        most_descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        admission = Admission(inflight, total_key, wheel, min(most_descriptors, MOST_DESCRIPTORS))
        self._live = Live(wheel, admission, self._page.slots, counters, gate, Turns(self._loop.call_soon))
        if self._config.store != "memory":
            options = self._config.store_options
            report = self._channel.send
            self._asking = Asking(segment, order.page, table, self._loop, options, report)
            self._live.leases = self._asking.leases
        self._compiler = Compiler(
            *(segment, table, inflight, order.page, wheel, self._loop, self._unreached, self._names),
            self._asking.shared if self._asking is not None else None,
        )
        self._live.swap(self._compiler.compile(self._config, order.generation + 1))
        self._tick(0, 1)
        self._ticks = Ticks(self._loop, self._tick, TICK_MS)
        if self._asking is not None and order.store is not None:
            await self._asking.begin(order.store)
        await self._accepting.take(order.listeners, fds)
        # What is loaded now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(MOST_YOUNG)

    def _protocols(self, bind: str) -> Callable[[], asyncio.BaseProtocol]:
        """What makes the protocol of each connection that is accepted on `bind`."""
        slots = measures.listener_slots(self._segment.registry, bind)
        states = slots.active, slots.idle, slots.tunnel
        listener = Listener(self._live, bind, slots.first_outcome, *states, slots.first_failure)
        return lambda: accepted(listener)

    def _tick(self, late_us: int, count: int) -> None:
        """Twenty times a second: deadlines, the Date of replies, what to shed, a sign of life, and how late
        all that is."""
        wall_s = time.time()
        self._live.tick(f"Date: {email.utils.formatdate(wall_s, usegmt=True)}\r\n".encode("ascii"))
        now_us = boottime_us()
        self._lag.note(late_us)
        self._page.beat(now_us, self._lag.value, self._backlog.least_us)
        self._follower.tick(now_us)
        self._backlog.measure()
        self._pass_time(count)
        self._tell_bans()
        self._tell(now_us)
        if self._drain_by_us and self._is_drained():
            self._channel.send(orders.Drained())
            self._end()

    def _pass_time(self, count: int) -> None:
        """Deadlines, by the ticks that were due since the last. What is over by those that were missed is so
        at the next, when what came meanwhile was read; and not all of them count when this worker stood still
        for long, which is nobody else's fault."""
        missed = min(count - 1, MOST_MISSED)
        self._live.wheel.advance(self._live.wheel.now + 1 + missed, missed)

    def _tell_bans(self) -> None:
        """The other nodes are to refuse them too, within 2 s."""
        if bans := take_bans():
            self._channel.send(orders.Banned(tuple(bans)))

    def _tell(self, now_us: int) -> None:
        """Once a second the supervisor hears whom this worker refuses, since it knows keys by their hash
        alone, and which web servers it cannot connect to."""
        if now_us < self._tell_at_us:
            return
        self._tell_at_us = now_us + TELL_MS * 1_000
        refused = self._live.refusals.take()
        if refused:
            self._channel.send(orders.Refusals(tuple(refused)))
        unreached = self._unreached.take()
        if unreached:
            self._channel.send(orders.Unreached(unreached))

    async def _compile(self, order: orders.Compile) -> None:
        """Beside the loop: a list of a million networks takes seconds, and requests go on meanwhile."""

        def compiled() -> tuple[int, Config, Policy]:
            config = msgspec.msgpack.decode(order.config, type=Config)
            return order.generation, config, self._compiler.compile(config, order.generation + 1)

        async with self._reloading:
            try:
                self._compiled = await self._loop.run_in_executor(None, compiled)
            except (RatelimitdError, KeyError, ValueError) as error:
                self._channel.send(
                    orders.Failed(f"cannot compile the configuration: {error}", order.generation)
                )
                return
            self._channel.send(orders.Compiled(order.generation))

    async def _swap(self, order: orders.Swap, fds: list[int]) -> None:
        async with self._reloading:
            if self._compiled is None or self._compiled[0] != order.generation:
                self._channel.send(orders.Failed("it was not compiled", order.generation))
                return
            _, config, policy = self._compiled
            self._compiled = None
            binds = {listener.bind for listener in config.listen}
            gone = [bind for bind in self._accepting.binds if bind not in binds]
            keep_for_gone(policy, self._live.policy, gone)
            self._config = config
            self._live.swap(policy)
            if order.listeners is not None:
                try:
                    await self._accepting.take(order.listeners, fds)
                except OSError as error:
                    self._channel.send(orders.Failed(f"cannot accept: {error}", order.generation))
                    return
            self._channel.send(orders.Swapped(order.generation))

    def _drain(self) -> None:
        """Accept nothing more and finish what is there, within `timeouts.drain`."""
        if self._config is None:
            self._end()
            return
        if self._drain_by_us:
            return
        self._drain_by_us = boottime_us() + self._config.timeouts.drain_ms * 1000
        self._accepting.stop(self._live.drain)

    def _is_drained(self) -> bool:
        if boottime_us() > self._drain_by_us:
            return True
        return self._accepting.stopped and not self._live.connections

    def _end(self) -> None:
        if self._ticks is not None:
            self._ticks.close()
            self._backlog.close()
            self._ticks = None
        if not self._ended.done():
            self._ended.set_result(None)


async def _clear(inflight: InFlight, page: int) -> None:
    """Forget what the process before held. Who has the lock may wait for a CPU, on a machine that is full."""
    for _ in range(CLEAR_TRIES):
        if inflight.clear(page):
            return
        await asyncio.sleep(TICK_MS / 1000)
    raise SegmentError("the lock of what is in flight is held by a process that is stopped")


def _log_bug(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What no code of ours caught is a mistake of ours: one line, and the connection it was on ends."""
    error = context.get("exception")
    where = ""
    if error is not None and error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f" at {last.filename}:{last.lineno}"
    print(f"worker: unexpected: {context.get('message')}: {error!r}{where}", file=sys.stderr, flush=True)


def _log_unraisable(found: sys.UnraisableHookArgs) -> None:
    """As above, of what C code may not raise. That a client asks TLS for a name that is no text is no mistake
    of ours: its handshake fails, and is counted."""
    if not (isinstance(found.exc_value, UnicodeDecodeError) and isinstance(found.object, bytes)):
        print(f"worker: unexpected: {found.exc_value!r} in {found.object!r}", file=sys.stderr, flush=True)


async def _run(control_fd: int, segment_fd: int) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_bug)
    worker = Worker(Segment.attach(segment_fd), socket.socket(fileno=control_fd), loop)
    await worker.run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="ratelimitd-worker", description="Started by the supervisor only.")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--segment", type=int, required=True)
    arguments = parser.parse_args()
    sys.unraisablehook = _log_unraisable
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    os.set_inheritable(arguments.control, False)
    os.set_inheritable(arguments.segment, False)
    try:
        uvloop.run(_run(arguments.control, arguments.segment))
    except RatelimitdError as error:
        print(f"worker: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
