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
from ratelimitd.limits.inflight import InFlight
from ratelimitd.limits.table import Table
from ratelimitd.overload.gate import Gate
from ratelimitd.proxy import measures, orders
from ratelimitd.proxy.channel import Channel
from ratelimitd.proxy.client import ClientConnection
from ratelimitd.proxy.compiling import Compiler
from ratelimitd.proxy.deadlines import Wheel
from ratelimitd.proxy.live import Listener, Live, Policy
from ratelimitd.proxy.shedding import Follower, Lag
from ratelimitd.proxy.ticks import Ticks
from ratelimitd.segment.memory import Segment, boottime_us
from ratelimitd.segment.shedding import ShedWords

if TYPE_CHECKING:
    from ratelimitd.segment.pages import Page

TICK_MS: Final = 50
REFUSALS_MS: Final = 1_000
# As large as the kernel allows: a surge waits in the queue of a socket, not in retransmitted SYNs.
BACKLOG: Final = 65_535
_IGNORED: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


class Worker:
    """One worker process, from its first order to its end."""

    def __init__(self, segment: Segment, control: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._segment = segment
        self._loop = loop
        self._ended: asyncio.Future[None] = loop.create_future()
        self._channel = Channel(control, loop, self._ordered, self._drain)
        self._servers: list[asyncio.Server] = []
        self._config: Config | None = None
        self._compiled: tuple[int, Config, Policy] | None = None
        # What is asked of a reload is done in its order: to compile takes a while, and a worker that has just
        # become ready is told to compile and to swap in one breath.
        self._reloading = asyncio.Lock()
        self._drain_by_us = 0
        self._lag = Lag()
        self._ticks: Ticks | None = None
        self._follower: Follower
        self._tell_at_us = 0
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
                self._loop.create_task(self._swap(order))
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
            self._channel.send(orders.Failed(f"cannot serve: {error}"))
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
        if not inflight.clear(order.page):
            raise SegmentError("the lock of what is in flight is held by a process that is stopped")
        wheel = Wheel(TICK_MS)
        gate = Gate(self._page.arrivals, int.from_bytes(os.urandom(8)))
        self._follower = Follower(ShedWords(segment.memory), gate)
        counters = measures.measures(segment.registry)
        self._live = Live(wheel, inflight, self._page.slots, counters, gate)
        self._compiler = Compiler(segment, table, inflight, order.page, wheel, self._loop)
        self._live.swap(self._compiler.compile(self._config, order.generation + 1))
        self._tick(0, 1)
        self._ticks = Ticks(self._loop, self._tick, TICK_MS)
        for bind, fd in zip(order.listeners, fds, strict=True):
            await self._listen(bind, socket.socket(fileno=fd))
        # What is loaded now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    async def _listen(self, bind: str, sock: socket.socket) -> None:
        slots = measures.listener_slots(self._segment.registry, bind)
        states = slots.active, slots.idle, slots.tunnel
        listener = Listener(self._live, bind, b"http", slots.first_outcome, *states)
        create = self._loop.create_unix_server if sock.family == socket.AF_UNIX else self._loop.create_server
        sock.setblocking(False)
        self._servers.append(await create(lambda: ClientConnection(listener), sock=sock, backlog=BACKLOG))

    def _tick(self, late_us: int, count: int) -> None:
        """Twenty times a second: deadlines, the Date of replies, what to shed, a sign of life, and how late
        all that is."""
        wall_s = time.time()
        self._live.tick(f"Date: {email.utils.formatdate(wall_s, usegmt=True)}\r\n".encode("ascii"))
        now_us = boottime_us()
        self._page.beat(now_us, self._lag.note(late_us))
        self._follower.tick(now_us)
        self._live.wheel.advance(self._live.wheel.now + count)
        self._tell_refusals(now_us)
        if self._drain_by_us and self._is_drained():
            self._channel.send(orders.Drained())
            self._end()

    def _tell_refusals(self, now_us: int) -> None:
        """Once a second the supervisor hears whom this worker refuses: it knows keys by their hash alone."""
        if now_us < self._tell_at_us:
            return
        self._tell_at_us = now_us + REFUSALS_MS * 1_000
        refused = self._live.refusals.take()
        if refused:
            self._channel.send(orders.Refusals(tuple(refused)))

    async def _compile(self, order: orders.Compile) -> None:
        """Beside the loop: a list of a million networks takes seconds, and requests go on meanwhile."""

        def compiled() -> tuple[int, Config, Policy]:
            config = msgspec.msgpack.decode(order.config, type=Config)
            return order.generation, config, self._compiler.compile(config, order.generation + 1)

        async with self._reloading:
            try:
                self._compiled = await self._loop.run_in_executor(None, compiled)
            except (RatelimitdError, KeyError, ValueError) as error:
                self._channel.send(orders.Failed(f"cannot compile the configuration: {error}"))
                return
            self._channel.send(orders.Compiled(order.generation))

    async def _swap(self, order: orders.Swap) -> None:
        async with self._reloading:
            if self._compiled is None or self._compiled[0] != order.generation:
                self._channel.send(orders.Failed(f"generation {order.generation} was not compiled"))
                return
            _, self._config, policy = self._compiled
            self._compiled = None
            self._live.swap(policy)
            self._channel.send(orders.Swapped(order.generation))

    def _drain(self) -> None:
        """Accept nothing more and finish what is there, within `timeouts.drain`."""
        if self._config is None:
            self._end()
            return
        if self._drain_by_us:
            return
        self._drain_by_us = boottime_us() + self._config.timeouts.drain_ms * 1000
        # One turn of the loop later: what waits in the queues is accepted first, since closing resets it.
        self._loop.call_later(TICK_MS / 1000, self._stop_accepting)

    def _stop_accepting(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        self._live.drain()

    def _is_drained(self) -> bool:
        if boottime_us() > self._drain_by_us:
            return True
        return not self._servers and not self._live.connections

    def _end(self) -> None:
        if self._ticks is not None:
            self._ticks.close()
            self._ticks = None
        if not self._ended.done():
            self._ended.set_result(None)


def _log_bug(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What no code of ours caught is a mistake of ours: one line, and the connection it was on ends."""
    error = context.get("exception")
    where = ""
    if error is not None and error.__traceback__ is not None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f" at {last.filename}:{last.lineno}"
    print(f"worker: unexpected: {context.get('message')}: {error!r}{where}", file=sys.stderr, flush=True)


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
