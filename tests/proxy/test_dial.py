"""How long a connection to a web server may take: time in which the loop stands still is not the server's."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import uvloop

from ratelimitd.proxy.dial import within


def test_a_loop_that_stands_still_uses_up_no_time() -> None:
    async def scenario(port: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            loop.call_soon(time.sleep, 0.3)
        async with within(loop, 0.2):
            transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        transport.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        uvloop.run(scenario(server.getsockname()[1]))


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_a_loop_that_is_in_time_ends_it_in_time(seconds: float) -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            async with within(loop, seconds):
                await asyncio.sleep(10)
        return time.monotonic() - began_s

    assert seconds * 0.9 <= uvloop.run(scenario()) < seconds + 2
