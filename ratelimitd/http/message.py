"""The heads of HTTP/1.1 messages as frozen values."""

from __future__ import annotations

import msgspec


class RequestHead(msgspec.Struct, frozen=True):
    """A request head as values. `fields` are (name, value) as they came, `forwarded` those that go on."""

    method: bytes
    target: bytes
    minor: int
    fields: tuple[tuple[bytes, bytes], ...]
    forwarded: tuple[tuple[bytes, bytes], ...]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    end: int


class ResponseHead(msgspec.Struct, frozen=True):
    """The head of an answer as values; `end` is the offset behind it."""

    status: int
    minor: int
    fields: tuple[tuple[bytes, bytes], ...]
    forwarded: tuple[tuple[bytes, bytes], ...]
    content_length: int | None
    chunked: bool
    keep_alive: bool
    end: int
