"""Random requests of the soak, and the one right answer to each.

A request says in its fields which answer it wants; the number in them is in every byte of the answer. The
same seed makes the same requests.
"""

from __future__ import annotations

import dataclasses
import random
import zlib
from typing import Final

# What the server does: how it frames its answer, or what it does instead.
PLAIN: Final = ("length", "chunked", "empty")
ENDING: Final = ("close", "early", "cut")  # after these its connection ends; of "cut" the answer is not whole


@dataclasses.dataclass(frozen=True)
class Question:
    number: int
    content: bytes | None  # None: a request without a body
    expects: bool  # Expect: 100-continue
    answer: str  # one of PLAIN and ENDING
    size: int  # of the answer's content
    head: bytes
    body: bytes  # as it is sent, chunk framing included

    def __str__(self) -> str:
        body = "no body" if self.content is None else f"a body of {len(self.content)} bytes"
        chunked = " in chunks" if self.chunked else ""
        expects = ", after 100" if self.expects else ""
        return f"{self.number}: {body}{chunked}{expects}, for {self.answer} {self.size}"

    @property
    def chunked(self) -> bool:
        return b"Transfer-Encoding" in self.head

    @property
    def wanted(self) -> bytes:
        """The content of the right answer."""
        return marked(self.number, 0 if self.answer == "empty" else self.size)

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.content or b"")


def marked(number: int, size: int) -> bytes:
    mark = b"<%d>" % number
    return (mark * (size // len(mark) + 1))[:size]


def question(rng: random.Random, number: int, *, may_end: bool) -> Question:
    """`may_end`: it is the last of its connection, if need be."""
    ending = may_end and rng.random() < 0.1
    answer = rng.choice(ENDING if ending else PLAIN)
    size = rng.randrange(100_000) if rng.random() < 0.05 else rng.randrange(2_000)
    form = rng.choice(("none", "none", "length", "length", "chunked"))
    expects = form != "none" and may_end and rng.random() < 0.2
    content = None if form == "none" else _content(rng)
    fields = [f"X-Number: {number}", f"X-Answer: {answer} {size}"]
    if form == "length":
        fields.append(f"Content-Length: {len(content or b'')}")
    elif form == "chunked":
        fields.append("Transfer-Encoding: chunked")
    if expects:
        fields.append("Expect: 100-continue")
    method = "GET" if content is None else "POST"
    head = "\r\n".join([f"{method} /{number} HTTP/1.1", "Host: a.example", *fields, "", ""]).encode()
    body = content or b""
    return Question(
        number, content, expects, answer, size, head, chunks(rng, body) if form == "chunked" else body
    )


def _content(rng: random.Random) -> bytes:
    """Mostly small, else too large to be read before a server is chosen."""
    kind = rng.random()
    if kind < 0.8:
        return rng.randbytes(rng.randrange(2_000))
    return rng.randbytes(rng.randrange(65_536) if kind < 0.95 else rng.randrange(65_536, 300_000))


def chunks(rng: random.Random, content: bytes) -> bytes:
    parts = []
    while content:
        size = rng.choice((1, rng.randrange(1, 100), rng.randrange(1, 50_000)))
        part, content = content[:size], content[size:]
        parts.append(b"%x%b\r\n%b\r\n" % (len(part), rng.choice((b"", b";a=b")), part))
    return b"".join([*parts, b"0\r\n", rng.choice((b"", b"X-Trailer: y\r\n")), b"\r\n"])


def fragments(rng: random.Random, data: bytes) -> list[bytes]:
    """The data in pieces: whole, at a few random places, or its beginning byte by byte."""
    kind = rng.random()
    if kind < 0.3:
        return [data]
    if kind < 0.4:
        split = min(len(data), 60)
        return [data[n : n + 1] for n in range(split)] + [data[split:]]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
