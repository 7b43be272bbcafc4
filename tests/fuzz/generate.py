"""Requests that nobody would send: built by the grammar of HTTP/1.1 from good, odd and bad parts, or taken
from the corpus, and then, most of them, broken in a place or two.

Everything comes from one seed, so that a find can be made again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final

from tests.http import corpus

METHODS: Final = [b"GET"] * 6 + [b"POST"] * 6 + [
    b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"PROPFIND", b"QUERY", b"TRACE", b"M-SEARCH",
    b"LABEL", b"get", b"CONNECT", b"G\0T", b"GETS", b"",
]  # fmt: skip
TARGETS: Final = [b"/", b"/a/b?c=d"] * 6 + [
    b"*", b"http://a.example/x", b"http://a.example", b"http://b.example/", b"/\xc3\xa4", b"/\xe4",
    b"/%zz", b"/%00", b"/../x", b"/a b", b"/#", b"//a.example/", b"a", b"", b"/a?%", b'/|"<>^`{}\\',
    b"/;a=b", b"a.example:80", b"https://a.example:443/",
]  # fmt: skip
VERSIONS: Final = (
    [b"HTTP/1.1"] * 16 + [b"HTTP/1.0"] * 4 + [b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b""]
)
HOSTS: Final = [b"Host: a.example"] * 12 + [
    b"host:a.example", b"Host: a.example:80", b"Host: [::1]:80", b"Host:", b"Host: a.example, b",
    b"HOST:\ta.example ", b"Host: a.example\r\nHost: a.example", b"X: no host",
]  # fmt: skip
LENGTHS: Final = [b"%d"] * 12 + [
    b"+%d", b"0%d", b"%d, %d", b" %d ", b"\t%d", b"%d\x0b", b"0x%d", b"%d.0", b"-%d", b"", b"%d;",
    b"00000000000000%d",
]  # fmt: skip
CODINGS: Final = [b"chunked"] * 12 + [
    b"Chunked", b" chunked", b"\tchunked", b"chunked ", b"chunked,", b"gzip, chunked", b"identity",
    b"chunked, chunked", b"xchunked", b"\x0bchunked", b"chunked;a=b", b"",
]  # fmt: skip
FIELDS: Final = [
    b"Accept: */*", b"Connection: close", b"Connection: keep-alive", b"Connection: X-A, te",
    b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"Connection: content-length",
    b"Connection: transfer-encoding", b"TE: trailers", b"Expect: 100-continue", b"Expect: x",
    b"Content_Length: 7", b"Transfer_Encoding: chunked", b"X-Forwarded-For: 192.0.2.9",
    b"x_forwarded_for: 192.0.2.9", b"Forwarded: for=192.0.2.9", b"Keep-Alive: 5", b"Cookie: a=b; c=d",
    b"X-A:", b"X-A: \xe4\x85\xa0", b"X-A: a\tb", b"X-A : b", b"X-A: b\r\n c", b"X-A: b\x00c",
    b"X-A: b\rc", b"X-A: b\nContent-Length: 3", b"X_A: 1", b"Proxy-Connection: close", b"Trailer: X-Sum",
    b"Via: 1.0 x", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"HTTP2-Settings: AAMA", b": x",
    b" X: y", b"X-Content-Length: 3", b"Content-Encoding: chunked", b"Sec-WebSocket-Key: x",
    b"X-Request-Id: a",
]  # fmt: skip
EXTENSIONS: Final = [b""] * 8 + [b";a", b";a=b", b'; a="b;c"', b";", b" ;a", b';a="', b";a\nb", b"; a ; b=c"]
TRAILERS: Final = [b""] * 8 + [
    b"X-Sum: 1\r\n", b"Content-Length: 3\r\n", b"Host: b\r\n", b"X-Sum\r\n", b"X: y\r\n z\r\n",
    b"X:\ty \r\n", b"x-forwarded-for: 192.0.2.9\r\n", b"GET / HTTP/1.1\r\n",
]  # fmt: skip
FRAGMENTS: Final = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"5", b"+", b"\x0b", b"\x0c",
    b"\x85", b"\xa0", b"\xff", b"_", b"-", b"/", b"\r\n\r\n", b"\r\n ", b"0\r\n\r\n", b"chunked",
    b"HTTP/1.1", b"GET / HTTP/1.1\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Host: b\r\n", b"\x7f",
]  # fmt: skip


def streams(seed: int) -> Iterator[bytes]:
    """What one client after the other sends: one to three requests each."""
    choice = random.Random(seed)
    corpora = [case.data for case in corpus.valid()] + [case.data for case in corpus.pipelined()]
    samples = [data for data in corpora if len(data) < 2000]
    while True:
        count = choice.choice((1, 1, 1, 2, 3))
        parts = [_request(choice) if choice.random() < 0.8 else choice.choice(samples) for _ in range(count)]
        yield _broken(choice, b"".join(parts))


def pieces(data: bytes, seed: int) -> list[bytes]:
    """`data` in up to six pieces."""
    choice = random.Random(seed)
    places = sorted(choice.randrange(len(data) + 1) for _ in range(choice.randint(0, 5)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


def _often(choice: random.Random, good: int, parts: Sequence[bytes]) -> bytes:
    """One of the parts, of which the first is good: that one `good` times of ten."""
    return parts[0] if choice.randrange(10) < good else choice.choice(parts)


def _request(choice: random.Random) -> bytes:
    line = b" ".join((_often(choice, 3, METHODS), _often(choice, 5, TARGETS), _often(choice, 7, VERSIONS)))
    fields = [_often(choice, 8, HOSTS), *choice.choices(FIELDS, k=choice.choice((0, 0, 1, 2, 4)))]
    framing, body = _body(choice)
    fields += framing
    if choice.random() < 0.3:
        choice.shuffle(fields)
    return b"\r\n".join((line, *fields, b"", body))


def _body(choice: random.Random) -> tuple[list[bytes], bytes]:
    """Fields of framing, and the body that they promise, more or less."""
    content = bytes(choice.choice(b"ab\r\n0:\0 ") for _ in range(choice.choice((0, 1, 5, 16, 300))))
    kind = choice.randrange(8)
    if kind < 3:
        return [], b""
    if kind < 5:
        length = _often(choice, 7, LENGTHS).replace(b"%d", b"%d" % len(content))
        return [b"Content-Length: " + length], content
    chunks = [content[:3], content[3:7], content[7:]]
    body = b"".join(
        b"%x%b\r\n%b\r\n" % (len(chunk), _often(choice, 7, EXTENSIONS), chunk) for chunk in chunks if chunk
    )
    body += b"0%b\r\n%b\r\n" % (_often(choice, 8, EXTENSIONS), _often(choice, 7, TRAILERS))
    return [b"Transfer-Encoding: " + _often(choice, 7, CODINGS)], body


def _broken(choice: random.Random, data: bytes) -> bytes:
    """`data` with up to three places cut out, put in, doubled or moved."""
    for _ in range(choice.choice((0, 0, 0, 1, 1, 2, 3))):
        at = choice.randrange(len(data) + 1)
        to = min(len(data), at + choice.choice((0, 0, 1, 1, 2, 8, 30)))
        kind = choice.randrange(4)
        if kind == 0:
            piece = b""
        elif kind == 1:
            piece = choice.choice(FRAGMENTS)
        elif kind == 2:
            piece = data[at:to] * 2
        else:
            piece = bytes((choice.randrange(256),))
        data = data[:at] + piece + data[to:]
    return data or b"G"
