"""A worker that gets its orders faster than it can carry them out still carries them out in their order."""

from __future__ import annotations

import asyncio
import socket
import sys

import msgspec

from ratelimitd.config.flags import Flags, upstream
from ratelimitd.config.load import from_flags
from ratelimitd.config.model import Config
from ratelimitd.control import catalogue
from ratelimitd.limits.inflight import InFlight
from ratelimitd.limits.table import Table
from ratelimitd.proxy.channel import Channel
from ratelimitd.proxy.orders import Compile, Compiled, Message, Ready, Start, Stop, Swap, Swapped
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment


def new_segment(config: Config) -> Segment:
    segment = Segment.create(4096, layout.FIRST_WORKER_PAGE + 1)
    shape = segment.table
    Table(segment.memory, shape.offset, shape.stripes, shape.buckets_per_stripe).initialise()
    InFlight(segment.memory, segment.inflight_offset, segment.pages, layout.SUPERVISOR_PAGE).initialise()
    catalogue.register(config, segment.registry)
    return segment


async def reports_to(orders: tuple[Message, ...], config: Config, count: int) -> list[Message]:
    """What a real worker says to `orders`, all sent in one breath once it is ready."""
    segment = new_segment(config)
    ours, its = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ratelimitd.proxy.worker"),
        *("--control", str(its.fileno()), "--segment", str(segment.fd)),
        pass_fds=(its.fileno(), segment.fd),
    )
    its.close()
    heard: asyncio.Queue[Message] = asyncio.Queue()
    channel = Channel(ours, asyncio.get_running_loop(), lambda report, _: heard.put_nowait(report), print)
    try:
        async with asyncio.timeout(20):
            channel.send(Start(msgspec.msgpack.encode(config), layout.FIRST_WORKER_PAGE, ()))
            assert await heard.get() == Ready()
            for order in orders:
                channel.send(order)
            return [await heard.get() for _ in range(count)]
    finally:
        channel.send(Stop())
        await process.wait()
        channel.close()
        segment.close()


def test_a_swap_waits_for_what_it_puts_in_force() -> None:
    """As for a worker that becomes ready in the middle of a reload: it is told both at once, and once."""
    config = from_flags(Flags(servers=(upstream("http://127.0.0.1:9"),)))
    encoded = msgspec.msgpack.encode(config)
    orders = (Compile(encoded, 1), Swap(1), Compile(encoded, 2), Swap(2))
    assert asyncio.run(reports_to(orders, config, 4)) == [Compiled(1), Swapped(1), Compiled(2), Swapped(2)]
