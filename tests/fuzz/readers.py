"""Other people's parsers of HTTP/1.1, asked what they find in a stream of bytes: llhttp and h11.

Each gives the complete requests it reads before it stops, and why it stopped: what it refuses, or nothing.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

import h11
import httptools

MOST: Final = 1 << 20
_EMPTY_LINES: Final = re.compile(rb"^(\r\n)+")


@dataclasses.dataclass(frozen=True)
class Request:
    method: bytes
    target: bytes
    content: bytes
    version: bytes = dataclasses.field(default=b"", compare=False, repr=False)


class _Callbacks:
    """What llhttp tells."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self.target = self.content = b""

    def on_message_begin(self) -> None:
        self.target = self.content = b""

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_body(self, body: bytes) -> None:
        self.content += body

    def on_message_complete(self) -> None:
        self.requests.append(Request(self.parser.get_method(), self.target, self.content))


def llhttp(data: bytes) -> tuple[list[Request], str]:
    seen = _Callbacks()
    try:
        seen.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return seen.requests, "upgrade"
    except httptools.HttpParserError as error:
        return seen.requests, str(error)
    return seen.requests, ""


def h11_(data: bytes) -> tuple[list[Request], str]:
    requests: list[Request] = []
    while data:
        data = _EMPTY_LINES.sub(b"", data)  # RFC 9112, 2.2
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST)
        connection.receive_data(data)
        try:
            request = _next(connection)
        except h11.RemoteProtocolError as error:
            return requests, str(error)
        if request is None:
            break
        requests.append(request)
        if connection.their_state is h11.MUST_CLOSE and request.version != b"1.0":
            break  # of HTTP/1.0 it keeps no connection at all
        data = connection.trailing_data[0]
    return requests, ""


def _next(connection: h11.Connection) -> Request | None:
    """The one request of a fresh connection; None: it is not whole."""
    request = connection.next_event()
    if not isinstance(request, h11.Request):
        return None
    content = b""
    while isinstance(event := connection.next_event(), h11.Data):
        content += bytes(event.data)
    if not isinstance(event, h11.EndOfMessage):
        return None
    return Request(bytes(request.method), bytes(request.target), content, bytes(request.http_version))
