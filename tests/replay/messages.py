"""What a stream of bytes says when it is read as HTTP/1.1: strictly, and by readers of worse manners.

The strict reader is for what a proxy may send: it knows two framings, and anything else in them is an error.
The naive readers each make one mistake that servers in the field make. A stream in which they all find the
same requests can be read in one way only; one in which they differ is how requests are smuggled.
"""

from __future__ import annotations

import dataclasses
from typing import Final


class Unreadable(ValueError):
    """The stream is no sequence of requests."""


@dataclasses.dataclass(frozen=True)
class Message:
    """One complete request as it stands in the stream."""

    head: bytes
    body: bytes  # with the framing of its chunks

    @property
    def method(self) -> bytes:
        return self.head.partition(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.head.split(b" ", 2)[1]

    def values(self, name: bytes) -> list[bytes]:
        """The values of a field, its name in lower case."""
        lines = self.head.split(b"\r\n")[1:-2]
        pairs = [line.partition(b":") for line in lines]
        return [value.strip(b" \t") for other, _, value in pairs if other.lower() == name]

    @property
    def content(self) -> bytes:
        """The body without the framing of its chunks."""
        if not self.values(b"transfer-encoding"):
            return self.body
        content, rest = b"", self.body
        while True:
            line, _, rest = rest.partition(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            if size == 0:
                return content
            content, rest = content + rest[:size], rest[size + 2 :]


@dataclasses.dataclass(frozen=True)
class Manners:
    """How a reader finds the end of a request."""

    bare_lf: bool = False  # ends lines
    loose_names: bool = False  # `_` is `-`, and a space before the colon is none
    length_first: bool = False  # Content-Length beats Transfer-Encoding
    first_length: bool = False  # of several; else the last
    any_chunked: bool = False  # a coding that contains the word; else the value is the word
    folds: bool = False  # a line that starts with a space belongs to the one before it


STRICT: Final = Manners()
NAIVE: Final = {
    "bare LF": Manners(bare_lf=True),
    "loose names": Manners(loose_names=True, any_chunked=True),
    "length first": Manners(length_first=True),
    "first length": Manners(length_first=True, first_length=True, loose_names=True),
    "folding": Manners(folds=True, bare_lf=True, any_chunked=True),
    "all of it": Manners(bare_lf=True, loose_names=True, any_chunked=True, folds=True),
}


def split(data: bytes, manners: Manners = STRICT) -> tuple[list[Message], bytes]:
    """The complete requests at the start of `data`, and what is left of it."""
    messages = []
    while data:
        head_end = _head_end(data, manners)
        if head_end == 0:
            break
        head = data[:head_end]
        size = _body_size(head, data[head_end:], manners)
        if size < 0:
            break
        messages.append(Message(head, data[head_end : head_end + size]))
        data = data[head_end + size :]
    return messages, data


def _head_end(data: bytes, manners: Manners) -> int:
    """The offset behind the first empty line; 0: there is none yet."""
    ends = [data.find(mark) + len(mark) for mark in (b"\r\n\r\n", b"\n\n", b"\n\r\n") if mark in data]
    if not manners.bare_lf:
        return data.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0
    return min(ends, default=0)


def _fields(head: bytes, manners: Manners) -> list[tuple[bytes, bytes]]:
    lines = head.replace(b"\r\n", b"\n").split(b"\n") if manners.bare_lf else head.split(b"\r\n")
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        if manners.folds and line[:1] in (b" ", b"\t") and fields:
            fields[-1] = (fields[-1][0], fields[-1][1] + b" " + line.strip(b" \t"))
            continue
        name, _, value = line.partition(b":")
        name = name.lower()
        if manners.loose_names:
            name = name.strip(b" \t\0").replace(b"_", b"-")
        fields.append((name, value.strip(b" \t")))
    return fields


def _body_size(head: bytes, rest: bytes, manners: Manners) -> int:
    """How many bytes of `rest` are the body; -1: it is not all there."""
    fields = _fields(head, manners)
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    lengths = [value for name, value in fields if name == b"content-length"]
    if manners is STRICT and (len(codings) + len(lengths) > 1 or codings not in ([], [b"chunked"])):
        raise Unreadable(head)
    chunked = any(b"chunked" in coding if manners.any_chunked else coding == b"chunked" for coding in codings)
    if chunked and not (lengths and manners.length_first):
        return _chunked_size(rest, manners)
    if not lengths:
        return 0
    length = lengths[0] if manners.first_length else lengths[-1]
    if not length.isdigit():
        raise Unreadable(head)
    return int(length) if int(length) <= len(rest) else -1


def _chunked_size(rest: bytes, manners: Manners) -> int:
    """Where the chunked body at the start of `rest` ends; -1: it does not yet."""
    at = 0
    last = False
    while True:
        end = rest.find(b"\n", at) if manners.bare_lf else rest.find(b"\r\n", at)
        if end < 0:
            return -1
        line = rest[at:end].removesuffix(b"\r")
        at = end + (1 if manners.bare_lf else 2)
        if last:
            if not line:
                return at
            continue
        size = _chunk_size(line.partition(b";")[0], rest)
        if size == 0:
            last = True
            continue
        at += size
        if len(rest) < at + 2:
            return -1
        if rest[at : at + 2] != b"\r\n":
            raise Unreadable(rest)
        at += 2


def _chunk_size(digits: bytes, rest: bytes) -> int:
    try:
        return int(digits, 16)
    except ValueError:
        raise Unreadable(rest) from None


def disagreement(data: bytes) -> str | None:
    """Which naive reader finds other requests in `data` than the strict one; None: it has one reading."""
    strict, rest = split(data)
    for name, manners in NAIVE.items():
        try:
            found, left = split(data, manners)
        except Unreadable:
            return f"{name}: unreadable"
        if found != strict or left != rest:
            return f"{name}: {len(found)} requests for {len(strict)}"
    return None
