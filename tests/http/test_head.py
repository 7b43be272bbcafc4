"""The parser of heads: what it refuses and with which status, what it makes of the rest, and in any cut.

The corpus (tests/corpora/http) holds one request a file. Two other parsers, llhttp and h11, check that what
passes here is read by them in the same way.
"""

from __future__ import annotations

import contextlib

import h11
import httptools
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ratelimitd.errors import ClientFault, UpstreamFault
from ratelimitd.http.message import RequestHead
from ratelimitd.http.methods import METHODS, UNKNOWN_TO_LLHTTP
from ratelimitd.http.values import head_end, read_request, read_response
from tests.http import corpus

INVALID = corpus.invalid()
VALID = corpus.valid()
IN_HEAD = [case for case in INVALID if case.place == "head"]
BEHIND = [case for case in INVALID if case.place in ("request", "body")]

PLAIN = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n"


def status_of(data: bytes) -> int:
    """The status with which a head is refused; 0: it is not, or is not whole."""
    try:
        read_request(data)
    except ClientFault as fault:
        return fault.status
    return 0


def read(data: bytes) -> RequestHead:
    head = read_request(data)
    assert head is not None
    return head


def by_lines(*lines: bytes) -> bytes:
    return b"\r\n".join((b"GET /a HTTP/1.1", b"Host: a.example", *lines, b"", b""))


def test_the_tables_name_every_file() -> None:
    assert corpus.files("invalid") == {case.name for case in INVALID}
    assert corpus.files("valid") == {case.name for case in VALID}
    assert corpus.files("pipelined") == {case.name for case in corpus.pipelined()}
    assert len(INVALID) + len(VALID) >= 800


def test_git_keeps_line_ends_of_the_corpus() -> None:
    assert b"\r\n" in INVALID[0].data
    assert any(b"\0" in case.data for case in INVALID)


@pytest.mark.parametrize("case", IN_HEAD, ids=lambda case: case.name)
def test_invalid(case: corpus.Invalid) -> None:
    assert status_of(case.data) == case.status
    assert status_of(case.data + b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n") == case.status


@pytest.mark.parametrize("case", BEHIND, ids=lambda case: case.name)
def test_the_head_alone_is_well_formed(case: corpus.Invalid) -> None:
    assert status_of(case.data) == 0


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.name)
def test_valid(case: corpus.Valid) -> None:
    for behind in (b"", b"\r\n", b"GET", b"\0\n\n"):
        head = read(case.head + behind)
        assert (head.method, head.target) == (case.method, case.target)
        assert (head.content_length, head.chunked) == (case.content_length, case.chunked)
        assert head.keep_alive == case.keep_alive
        assert head.end == len(case.head)


def fed(data: bytes, cuts: list[int]) -> tuple[int, int]:
    """Where the head ends and with which bytes that was seen, when `data` comes in these pieces."""
    resume = 0
    for cut in [*cuts, len(data)]:
        end, resumed = head_end(data[:cut], 0, resume)
        # Scanning resumes where it stopped: never before, never beyond what is there, and at a line start,
        # so that each byte is looked at once but for those of a line that came in pieces.
        assert resume <= resumed <= cut
        assert end == 0 or resume < abs(end) or end == -1
        if end:
            return end, cut
        assert resumed == 0 or data[resumed - 1 : resumed] == b"\n"
        assert b"\n" not in data[resumed:cut]
        resume = resumed
    return 0, len(data)


@given(st.sampled_from([*INVALID, *VALID]), st.data())
def test_the_end_of_a_head_is_the_same_in_any_cut(
    case: corpus.Invalid | corpus.Valid, data: st.DataObject
) -> None:
    size = len(case.data)
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=8)))
    assert fed(case.data, cuts)[0] == fed(case.data, [])[0]


@pytest.mark.parametrize("case", [*INVALID, *VALID], ids=lambda case: case.name)
def test_the_end_of_a_head_is_seen_with_its_last_byte(case: corpus.Invalid | corpus.Valid) -> None:
    whole = fed(case.data, [])[0]
    end, seen = fed(case.data, list(range(len(case.data))))
    assert end == whole
    if end > 0:
        assert seen == end
    elif end < 0:
        assert case.data[seen - 1 : seen] == b"\n"


@pytest.mark.parametrize("start", [1, 7, 4096])
def test_a_head_behind_other_bytes(start: int) -> None:
    assert head_end(b"\r" * start + PLAIN, start) == (start + len(PLAIN), 0)
    assert head_end(b"\r" * start + b"\n" + PLAIN, start)[0] == -1


def test_bounds() -> None:
    def with_target(size: int) -> bytes:
        return b"GET /" + b"a" * (size - 1) + PLAIN[6:]

    assert status_of(with_target(8192)) == 0
    assert status_of(with_target(8193)) == 414
    assert status_of(by_lines(*[b"X: y"] * 99)) == 0
    assert status_of(by_lines(*[b"X: y"] * 100)) == 431
    read_request(by_lines(*[b"X: y"] * 2), most_fields=3)
    with pytest.raises(ClientFault) as caught:
        read_request(by_lines(*[b"X: y"] * 3), most_fields=3)
    assert caught.value.status == 431
    assert caught.value.outcome == "malformed"


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_in_each_place(byte: int) -> None:
    """RFC 9110: names are tchar, values hold no control but HTAB; targets are visible ASCII without `#`."""
    one = bytes([byte])
    tchar = one.isalnum() or one in b"!#$%&'*+-.^_`|~"
    text = byte == 9 or (byte >= 32 and byte != 127)
    for fill in range(18):  # wherever it stands in a block of bytes that are looked at together
        value = b"x" * fill + one + b"y" * (17 - fill)
        assert (status_of(by_lines(b"X: " + value)) == 0) == text, value
        assert (status_of(by_lines(b"A" + value + b": x")) == 0) == (tchar or byte == 58), value
    target = 33 <= byte < 127 and byte != 35
    assert (status_of(PLAIN.replace(b"/a", b"/" + one)) == 0) == target


@pytest.mark.parametrize(
    ("lines", "gone"),
    [
        ([b"Connection: x-one, X-Two", b"X-One: 1", b"x-TWO: 2", b"X-Three: 3"], {b"x-one", b"x-two"}),
        ([b"X-One: 1", b"Connection: close", b"Connection: x-one"], {b"x-one"}),
        ([b"X-One: 1", b"X-One: 2", b"Connection: x-one"], {b"x-one"}),
        ([b"Connection: accept", b"Accept: text/html"], {b"accept"}),
        ([b"Connection: ratelimit", b"RateLimit: a"], {b"ratelimit"}),
        ([b"Keep-Alive: timeout=5"], {b"keep-alive"}),
        ([b"Proxy-Connection: keep-alive"], {b"proxy-connection"}),
        ([b"TE: trailers"], {b"te"}),
        ([b"Upgrade: h2c"], {b"upgrade"}),
        ([b"HTTP2-Settings: AAMA"], {b"http2-settings"}),
        ([b"Content_Length: 5", b"transfer_encoding: chunked"], {b"content_length", b"transfer_encoding"}),
        ([b"X_Forwarded_For: 192.0.2.9"], {b"x_forwarded_for"}),
    ],
)
def test_what_belongs_to_the_connection_stays_there(lines: list[bytes], gone: set[bytes]) -> None:
    head = read(by_lines(*lines))
    names = {name.lower() for name, _ in head.fields}
    assert names - {name.lower() for name, _ in head.forwarded} == gone | (names & {b"connection"})


@pytest.mark.parametrize(
    "name", [b"Host", b"Content-Length", b"X-Forwarded-For", b"Forwarded", b"X-Forwarded-Proto", b"Expect"]
)
def test_framing_and_identity_cannot_be_named_away(name: bytes) -> None:
    ours = [
        b"Content-Length: 0",
        b"X-Forwarded-For: 192.0.2.1",
        b"Forwarded: for=a",
        b"X-Forwarded-Proto: http",
    ]
    head = read(by_lines(b"Connection: " + name, *ours, b"Expect: x"))
    assert name in [name for name, _ in head.forwarded]


@pytest.mark.parametrize("method", sorted(METHODS - UNKNOWN_TO_LLHTTP - {b"CONNECT"}))
def test_every_known_method_is_known_to_both_readers(method: bytes) -> None:
    data = method + PLAIN[3:]
    assert read(data).method == method
    assert llhttp_reads(data) == (True, 0)


@pytest.mark.parametrize("method", sorted(UNKNOWN_TO_LLHTTP))
def test_methods_that_only_we_know(method: bytes) -> None:
    """The day llhttp learns one, it needs no other method put in its place."""
    data = method + PLAIN[3:]
    assert read(data).method == method
    with pytest.raises(httptools.HttpParserInvalidMethodError):
        llhttp_reads(data)


def llhttp_reads(data: bytes) -> tuple[bool, int]:
    """Whether exactly one message is complete at the end of `data`, and the size of its body."""
    seen: list[int] = []

    class Reader:
        def on_body(self, body: bytes) -> None:
            seen.append(len(body))

        def on_message_complete(self) -> None:
            seen.append(-1)

    parser = httptools.HttpRequestParser(Reader())
    with contextlib.suppress(httptools.HttpParserUpgrade):
        parser.feed_data(data)
    assert seen.count(-1) <= 1
    return bool(seen) and seen[-1] == -1, sum(size for size in seen if size > 0)


def h11_reads(data: bytes) -> tuple[bytes, bytes, int]:
    """Method, target and size of the body of the one message in `data`."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    size = 0
    while isinstance(event := connection.next_event(), h11.Data):
        size += len(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data[0] == b""
    return request.method, request.target, size


FRAGMENTS = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"5", b"0", b"+", b"\x0b", b"\x85", b"\xa0",
    b"Content-Length: 5", b"Transfer-Encoding: chunked", b"transfer-encoding:", b"chunked", b"Host: b",
    b"Connection: close", b"Connection:", b"keep-alive", b"Upgrade: h2c", b"HTTP/1.1", b"HTTP/1.0", b"GET",
    b"\r\n ", b"\r\n\r\n", b"http://a.example", b"/", b"*", b"Expect: 100-continue", b"_", b"-",
]  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A valid request in which a few things were cut out, put in, repeated or changed."""
    data = draw(st.sampled_from(VALID)).head
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 20)))
        piece = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=2) | st.just(data[at:to] * 2))
        data = data[:at] + piece + data[to:]
    return data


@given(mutations())
@example(by_lines(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 0"))
def test_what_passes_is_read_alike_by_llhttp_and_h11(data: bytes) -> None:
    """Invariant: a head that is accepted here is accepted by both others, with the same method, target and
    length of the body, or llhttp refuses it, which refuses it for all (it is the second reader)."""
    try:
        head = read_request(data)
    except ClientFault:
        return
    assume(head is not None)
    assert head is not None
    assume(not head.chunked and (head.content_length or 0) < 100_000 and head.method in METHODS)
    size = head.content_length or 0
    message = data[: head.end] + b"x" * size
    try:
        assert llhttp_reads(message) == (True, size)
    except httptools.HttpParserError:
        return
    assert h11_reads(message) == (head.method, head.target, size)


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200 OK", 200),
        (b"HTTP/1.0 200 OK", 200),
        (b"HTTP/1.1 200 ", 200),
        (b"HTTP/1.1 200", 200),
        (b"HTTP/1.1 599 \xc3\xa4", 599),
        (b"HTTP/1.1 100 Continue", 100),
    ],
)
def test_status_lines(line: bytes, status: int) -> None:
    head = read_response(line + b"\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    assert head is not None
    assert (head.status, head.content_length, head.keep_alive) == (status, 5, False)
    assert head.forwarded == ((b"Content-Length", b"5"),)


@pytest.mark.parametrize(
    "data",
    [
        *(
            line + b"\r\n\r\n"
            for line in [
                b"", b"HTTP/1.1", b"HTTP/1.1 20", b"HTTP/1.1 2000", b"HTTP/1.1 200OK", b"HTTP/1.1  200 OK",
                b"HTTP/1.1 099 x", b"HTTP/1.1 600 x", b"HTTP/1.1 -20 x", b"220 smtp.example",
                b"http/1.1 200 OK", b"ICY 200 OK", b" HTTP/1.1 200 OK", b"HTTP/1.1 200 a\0b",
                b"HTTP/1.1 200 a\rb", b"GET / HTTP/1.1", b"HTTP/1.1\t200 OK", b"HTTP/2.0 200 OK",
                b"HTTP/1.2 200 OK",
            ]
        ),
        ANSWER.replace(b"\r\n", b"\n"),
        ANSWER.replace(b": 5", b": 5\nX: y"),
        ANSWER.replace(b": 5", b": 5\r\nContent-Length: 5"),
        ANSWER.replace(b": 5", b": 5\r\nTransfer-Encoding: chunked"),
        ANSWER.replace(b": 5", b": +5"),
        ANSWER.replace(b"Content-Length: 5", b"Transfer-Encoding: gzip"),
        ANSWER.replace(b"1.1", b"1.0").replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        ANSWER.replace(b": 5", b" : 5"),
        ANSWER.replace(b"5", b"5\r\n folded"),
        ANSWER.replace(b"5", b"5\r\nX: \0"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_used(data: bytes) -> None:
    with pytest.raises(UpstreamFault) as caught:
        read_response(data)
    assert caught.value.status == 502


def test_an_answer_that_is_not_whole() -> None:
    for cut in range(len(ANSWER)):
        assert read_response(ANSWER[:cut]) is None
        assert read_request(PLAIN[: min(cut, len(PLAIN) - 1)]) is None
