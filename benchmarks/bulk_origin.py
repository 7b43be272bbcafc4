"""A web server for large bodies: `python bulk_origin.py PORT`.

A GET is answered with 64 MiB of zeros, in chunks of 16 KiB where the target says `chunked`; what is uploaded
is read and forgotten. Only bodies of zeros may be uploaded in chunks: their end is known by its bytes.
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
_CHUNKS: Final = (b"4000\r\n" + bytes(0x4000) + b"\r\n") * (len(_PIECE) // 0x4000)
_LAST_CHUNK: Final = b"0\r\n\r\n"
_LENGTH: Final = re.compile(rb"(?im)^content-length: *(\d+)")


async def send(writer: asyncio.StreamWriter, chunked: bool) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % BODY_BYTES
    writer.write(framing + b"\r\n\r\n")
    for _ in range(BODY_BYTES // len(_PIECE)):
        writer.write(_CHUNKS if chunked else _PIECE)
        await writer.drain()
    if chunked:
        writer.write(_LAST_CHUNK)


async def receive(reader: asyncio.StreamReader, length: int | None) -> None:
    tail = b""
    while length is None and tail != _LAST_CHUNK:
        tail = (tail + (await reader.read(len(_PIECE)))[-len(_LAST_CHUNK) :])[-len(_LAST_CHUNK) :]
    while length:
        length -= len(await reader.read(min(length, len(_PIECE))))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET "):
                await send(writer, b"chunked" in head.partition(b"\r\n")[0])
                continue
            length = _LENGTH.search(head)
            await receive(reader, int(length[1]) if length else None)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, LOOPBACK, port, limit=len(_PIECE))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
