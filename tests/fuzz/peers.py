"""Web servers of other people, asked what they find in a request as it was passed on to them.

Each gets it byte for byte, and, once it has answered, a second request over the same connection: a server
that sees the end of the first one elsewhere takes the second for something else, or waits. One that refuses a
request and ends the connection endangers nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, cast

from tests.fuzz.readers import Request
from tests.replay.messages import Message
from tests.servers import LOOPBACK, Nginx, Process, free_port

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_SECOND: Final = Request(b"GET", b"/second", b"")
_SECOND_BYTES: Final = b"GET /second HTTP/1.1\r\nHost: second\r\n\r\n"
_READ: Final = re.compile(rb"(?i)\r\nX-Read: ([^\r\n]*)")
_PATIENCE_S: Final = 20.0
_AT_ONCE: Final = 24  # connections to each


class _ReadingNginx(Nginx):
    """nginx, saying method and target; whether it finds the body's end, the second request shows."""

    def _configuration(self, directory: Path) -> str:
        said = 'add_header X-Read "$request_method $request_uri" always; return 200 "";'
        room = "large_client_header_buffers 8 64k; client_max_body_size 0;"
        usual = super()._configuration(directory)
        return re.sub(r"location / { default_type [^}]*}", lambda _: f"{room} location / {{ {said} }}", usual)


class Peers:
    """All of them, running. Each request is shown to them once."""

    def __init__(self, servers: Sequence[tuple[str, int]]) -> None:
        self._servers = servers
        self._known: set[bytes] = set()

    async def differences(self, messages: Iterable[Message]) -> list[tuple[bytes, str]]:
        """What any of them reads otherwise in one of the messages: its bytes, and who read what."""
        new = [message for message in messages if self._is_new(message)]
        room = {name: asyncio.Semaphore(_AT_ONCE) for name, _ in self._servers}
        asked = [_ask(name, port, message, room[name]) for message in new for name, port in self._servers]
        return [found for found in await asyncio.gather(*asked) if found is not None]

    def _is_new(self, message: Message) -> bool:
        plain = re.sub(rb"(?i)\r\n(x-request-id|x-forwarded-for):[^\r]*", b"", message.head) + message.body
        if len(self._known) > 200_000:
            self._known.clear()
        before = len(self._known)
        self._known.add(plain)
        return len(self._known) > before


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Peers]:
    gunicorn_port, node_port = free_port(), free_port()
    gunicorn = [sys.executable, "-m", "gunicorn", "--chdir", str(_ROOT), "--threads", "32"]
    gunicorn += ["--bind", f"{LOOPBACK}:{gunicorn_port}", "--no-control-socket", "--graceful-timeout", "1"]
    gunicorn += ["--limit-request-line", "0", "--limit-request-field_size", "0"]
    node = ["node", str(_ROOT / "tests/peers/reading.js"), str(node_port)]
    with contextlib.ExitStack() as started:
        nginx = started.enter_context(_ReadingNginx(directory))
        for name, arguments, port in (
            ("gunicorn", [*gunicorn, "tests.peers.reading:application"], gunicorn_port),
            ("node", node, node_port),
        ):
            started.enter_context(Process(name, arguments, directory)).wait_for_port(port)
        yield Peers([("nginx", nginx.port), ("gunicorn", gunicorn_port), ("node", node_port)])


async def _ask(name: str, port: int, message: Message, room: asyncio.Semaphore) -> tuple[bytes, str] | None:
    sent = message.head + message.body
    expected = Request(message.method, message.target, message.content)
    async with room:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                for data, request in ((sent, expected), (_SECOND_BYTES, _SECOND)):
                    writer.write(data)
                    found = await _answer(reader)
                    if found is None or (found == b"" and data is sent):
                        return None
                    if not _same(found, request):
                        return sent, f"{name} reads {found!r} for {request}"
        except TimeoutError:
            return sent, f"{name} waits for more than {expected}"
        except ConnectionError:
            return None
        finally:
            writer.close()
    return None


async def _answer(reader: asyncio.StreamReader) -> bytes | None:
    """What the server says it has read; empty: it refused; None: it ended the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 1"):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    said = _READ.search(head)
    return said[1] if said and head.startswith(b"HTTP/1.1 200 ") else b""


def _same(found: bytes, request: Request) -> bool:
    if not found or b" " in found:
        return found == request.method + b" " + request.target
    method, target, body = cast("list[str]", json.loads(bytes.fromhex(found.decode())))
    read = Request(method.encode(), target.encode("latin-1"), bytes.fromhex(body))
    return read == request
