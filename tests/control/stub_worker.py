"""A worker that speaks the channel and counts, and knows nothing of HTTP: for tests of the supervisor.

It answers each connection with its pid, holds it until the client closes, and counts one request. Options
before those of the supervisor: --mute (never Ready), --fail TEXT (Failed), --die (ends when started). What it
makes of a configuration in a reload is said by `headers.request_id`: x-refused (Failed), x-late (says once
more that it failed the one before, then takes it), x-unswappable (takes it, and fails to put it in force).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket

import msgspec

from ratelimitd.config.model import Config
from ratelimitd.proxy.channel import Channel
from ratelimitd.proxy.orders import (
    Compile,
    Compiled,
    Drain,
    Drained,
    Failed,
    Message,
    Ready,
    Start,
    Stop,
    Swap,
    Swapped,
)
from ratelimitd.segment.memory import Segment, boottime_us

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StubWorker:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.segment = Segment.attach(options.segment)
        self.loop = asyncio.get_running_loop()
        self.servers: list[asyncio.Server] = []
        self.busy: set[asyncio.StreamWriter] = set()
        self.draining = False
        self.wish = ""
        self.ended = asyncio.Event()
        control = socket.socket(fileno=options.control)
        self.channel = Channel(control, self.loop, self.take, self.drain)

    def take(self, message: Message, fds: list[int]) -> None:
        match message:
            case Start():
                self.starting = asyncio.ensure_future(self.start(message, fds))
            case Drain():
                self.drain()
            case Compile(config=config, generation=generation):
                self.wish = msgspec.msgpack.decode(config, type=Config).headers.request_id
                if self.wish == "x-late":
                    self.channel.send(Failed("the stub is late", generation - 1))
                if self.wish == "x-refused":
                    self.channel.send(Failed("the stub refuses this one", generation))
                else:
                    self.channel.send(Compiled(generation))
            case Swap(generation=generation) if self.wish == "x-unswappable":
                self.channel.send(Failed("the stub cannot", generation))
            case Swap(generation=generation):
                self.channel.send(Swapped(generation))
            case Stop():
                self.ended.set()
            case _:
                pass

    async def start(self, start: Start, fds: list[int]) -> None:
        if self.options.die:
            os._exit(7)
        if self.options.fail:
            self.channel.send(Failed(self.options.fail, start.generation))
            return
        config = msgspec.msgpack.decode(start.config, type=Config)
        assert [listener.bind for listener in config.listen] == list(start.listeners)
        self.page = self.segment.page(start.page)
        assert self.page.owner == os.getpid()
        self.beat()
        for bind, fd in zip(start.listeners, fds, strict=True):
            counter = self.segment.registry.series("ratelimitd_requests_total", (bind, "forwarded"))
            gauge = self.segment.registry.series("ratelimitd_connections", (bind, "active"))
            await self.listen(fd, counter, gauge)
        if not self.options.mute:
            self.channel.send(Ready())

    async def listen(self, fd: int, counter: int, gauge: int) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.busy.add(writer)
            self.page.slots[counter] += 1
            self.page.slots[gauge] += 1
            writer.write(f"{os.getpid()}\n".encode())
            # Cancelled when the worker ends: some versions of asyncio report that as an error.
            with contextlib.suppress(asyncio.CancelledError):
                await reader.read()
            writer.close()
            self.page.slots[gauge] -= 1
            self.busy.discard(writer)
            self.note_idle()

        sock = socket.socket(fileno=fd)
        start = asyncio.start_unix_server if sock.family == socket.AF_UNIX else asyncio.start_server
        self.servers.append(await start(serve, sock=sock, backlog=65_535))

    def beat(self) -> None:
        self.page.beat(boottime_us(), lag_us=1_500)
        self.loop.call_later(0.1, self.beat)

    def drain(self) -> None:
        self.draining = True
        for server in self.servers:
            server.close()
        self.note_idle()

    def note_idle(self) -> None:
        if self.draining and not self.busy:
            self.channel.send(Drained())
            self.ended.set()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mute", action="store_true")
    parser.add_argument("--fail")
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--control", type=int)
    parser.add_argument("--segment", type=int)
    worker = StubWorker(parser.parse_args())
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    await worker.ended.wait()
    worker.channel.close()


asyncio.run(main())
