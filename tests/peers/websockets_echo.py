"""An echo server of `websockets`: python websockets_echo.py PORT. On "close" it closes with 4001."""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, serve


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        if message == "close":
            await connection.close(4001, "bye")
        elif isinstance(message, str):
            await connection.send([message[: len(message) // 2], message[len(message) // 2 :]])  # fragments
        else:
            await connection.send(message)


async def main(port: int) -> None:
    async with serve(echo, "127.0.0.1", port, max_size=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
