"""A web server for large bodies: `python bulk_origin.py PORT`.

A GET is answered with 64 MiB; what is uploaded is read and forgotten.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Final

import uvloop

LOOPBACK: Final = "127.0.0.1"
BODY_BYTES: Final = 64 << 20
_PIECE: Final = bytes(1 << 20)
_LENGTH: Final = re.compile(rb"(?im)^content-length: *(\d+)")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET "):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES)
                for _ in range(BODY_BYTES // len(_PIECE)):
                    writer.write(_PIECE)
                    await writer.drain()
                continue
            length = _LENGTH.search(head)
            left = int(length[1]) if length else 0
            while left:
                left -= len(await reader.read(min(left, len(_PIECE))))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, LOOPBACK, port, limit=len(_PIECE))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
