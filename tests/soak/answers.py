"""The web server of the soak: `python answers.py PORT` answers each request with its own number.

The content of the answer repeats the number, and a field tells the checksum of the content that came. What
`X-Answer` says may be a good answer in any framing, or one before the body is read, or one that is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import zlib
from pathlib import Path
from typing import Final

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.soak.questions import marked

LOOPBACK: Final = "127.0.0.1"
MOST: Final = 1 << 20


def fields(head: bytes) -> dict[bytes, bytes]:
    lines = head.split(b"\r\n")[1:-2]
    return {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}


async def checksum(reader: asyncio.StreamReader, head: dict[bytes, bytes]) -> int:
    """That of the content, read to its end."""
    if b"transfer-encoding" not in head:
        return zlib.crc32(await reader.readexactly(int(head.get(b"content-length", b"0"))))
    found = 0
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        found = zlib.crc32((await reader.readexactly(size + 2))[:-2], found)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return found


def answer(kind: bytes, number: bytes, size: int, found: int) -> bytes:
    content = marked(int(number), size)
    head = b"HTTP/1.1 200 OK\r\nX-Number: %b\r\nX-Checksum: %d\r\n" % (number, found)
    if kind == b"empty":
        return head.replace(b"200 OK", b"204 No Content") + b"\r\n"
    if kind == b"chunked":
        half = size // 2
        parts = b"".join(
            b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:half], content[half:]) if part
        )
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    if kind == b"close":
        return head + b"Connection: close\r\n\r\n" + content
    end = b"Connection: close\r\n" if kind == b"early" else b""
    return head + end + b"Content-Length: %d\r\n\r\n" % size + content


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
        while True:
            head = fields(await reader.readuntil(b"\r\n\r\n"))
            kind, size = head[b"x-answer"].split()
            number = head[b"x-number"]
            if kind == b"early":
                writer.write(answer(kind, number, int(size), 0))
                writer.write_eof()
                while await reader.read(1 << 16):
                    pass
                return
            if b"expect" in head:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            data = answer(kind, number, int(size), await checksum(reader, head))
            writer.write(data[: len(data) - int(size) // 2 - 1] if kind == b"cut" else data)
            await writer.drain()
            if kind in (b"close", b"cut"):
                return


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, LOOPBACK, port, limit=MOST, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
