"""A web server that is given by name: all its addresses in turn, and none that it no longer has."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import uvloop

from ratelimitd.config import model
from ratelimitd.proxy.dial import Dialer
from ratelimitd.proxy.names import Names
from ratelimitd.proxy.orders import Addresses
from ratelimitd.proxy.unreached import Unreached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


def on_loop(scenario: Callable[[asyncio.AbstractEventLoop], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario(asyncio.get_running_loop())

    uvloop.run(run())


def listening(stack: contextlib.ExitStack, port: int, *hosts: str) -> None:
    for host in hosts:
        stack.enter_context(socket.create_server((host, port)))


def free_port() -> int:
    with socket.create_server(("0.0.0.0", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def peer(dialer: Dialer, server: model.Server) -> str:
    transport, _ = await dialer(server, asyncio.Protocol)
    host: Any = transport.get_extra_info("peername")[0]
    transport.close()
    return str(host)


def test_addresses_are_taken_in_turn_and_those_that_are_down_passed_over() -> None:
    names = Names()
    names.take(Addresses((("app", HOSTS),)), None)
    port = free_port()
    server = model.Server(f"http://app:{port}", host="app", port=port)

    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        dialer = Dialer(loop, 2000, model.Upstream("web", (server,)), Unreached(), names)
        with contextlib.ExitStack() as stack:
            listening(stack, port, *HOSTS)
            assert [await peer(dialer, server) for _ in range(6)] == [*HOSTS, *HOSTS]
        with contextlib.ExitStack() as stack:
            listening(stack, port, HOSTS[2])
            assert [await peer(dialer, server) for _ in range(3)] == [HOSTS[2]] * 3
        names.take(Addresses((("app", HOSTS[:1]),)), None)
        with contextlib.ExitStack() as stack:
            listening(stack, port, *HOSTS)
            assert [await peer(dialer, server) for _ in range(3)] == [HOSTS[0]] * 3

    on_loop(scenario)


def test_a_name_that_nobody_told_is_looked_up() -> None:
    port = free_port()
    server = model.Server(f"http://localhost:{port}", host="localhost", port=port)

    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        dialer = Dialer(loop, 2000, model.Upstream("web", (server,)), Unreached(), Names())
        with contextlib.ExitStack() as stack:
            listening(stack, port, "127.0.0.1")  # and not ::1, which the name also means
            assert await peer(dialer, server) == "127.0.0.1"

    on_loop(scenario)
