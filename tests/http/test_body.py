"""Chunked bodies: the same content and the same end in any cut, and a refusal for whatever is none."""

from __future__ import annotations

import h11
import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.http.body import ChunkedReader

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"0",
    b"00",
    b"5",
    b";",
    b";a=",
    b'"',
    b" ",
    b"\t",
    b"+",
    b"0x",
    b"\0",
    b":",
    b"X:y\r\n",
]


def encoded(chunks: list[bytes], extension: bytes = b"", trailers: bytes = b"") -> bytes:
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks if chunk)
    return framed + b"0" + extension + b"\r\n" + trailers + b"\r\n"


def read(data: bytes, cuts: list[int]) -> tuple[bytes, int, bool]:
    """The content, how far the body reaches, and whether it is complete, when it comes in these pieces."""
    reader = ChunkedReader()
    content, reach = b"", 0
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        taken, part = reader.read(data[start:end])
        content += part
        reach += taken
        if reader.complete:
            break
    return content, reach, reader.complete


@given(
    st.lists(st.binary(max_size=300)),
    st.sampled_from([b"", b";a", b";a=b", b';a="b \\" c"', b"; a ; b=c", b';a = "\xc3\xa4" ;b']),
    st.sampled_from([b"", b"X-Sum: 1\r\n", b"A: b\r\nC:\r\n"]),
    st.binary(max_size=20),
    st.data(),
)
def test_any_cut_gives_the_same_content_and_end(
    chunks: list[bytes], extension: bytes, trailers: bytes, behind: bytes, data: st.DataObject
) -> None:
    body = encoded(chunks, extension, trailers)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    assert read(body + behind, cuts) == (b"".join(chunks), len(body), True)


SPELLINGS = [b"%x", b"%X", b"0%x", b"%x;a", b'%x;a="b"']


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.sampled_from(SPELLINGS))), st.data())
def test_chunks_get_one_spelling_however_they_are_spelt_and_cut(
    chunks: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    """The last chunk is left out."""
    body = (
        b"".join(b"%b\r\n%b\r\n" % (size % len(chunk), chunk) for chunk, size in chunks)
        + b"0\r\nX: y\r\n\r\n"
    )
    spelt = encoded([chunk for chunk, _ in chunks]).removesuffix(b"0\r\n\r\n")
    reader = ChunkedReader()
    passed, at = b"", 0
    for cut in sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8))):
        passed += reader.read(body[at:cut], chunks=True)[1]
        assert spelt.startswith(passed)
        at = cut
    assert passed + reader.read(body[at:], chunks=True)[1] == spelt
    assert reader.complete


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
def test_a_body_is_complete_with_its_last_byte(chunks: list[bytes], data: st.DataObject) -> None:
    body = encoded(chunks)
    cut = data.draw(st.integers(0, len(body) - 1))
    content, reach, complete = read(body[:cut], [])
    assert (reach, complete) == (cut, False)
    assert b"".join(chunks).startswith(content)


def llhttp_reads(body: bytes) -> bytes | None:
    """The content, when `body` is all of a message; None: it is none, or not complete."""
    seen: list[bytes] = []

    class Reader:
        complete = False

        def on_body(self, content: bytes) -> None:
            seen.append(content)

        def on_message_complete(self) -> None:
            self.complete = True

    reader = Reader()
    try:
        httptools.HttpRequestParser(reader).feed_data(HEAD + body)
    except httptools.HttpParserError:
        return None
    return b"".join(seen) if reader.complete else None


def h11_reads(body: bytes) -> bytes | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(HEAD + body)
    content = b""
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Data):
                content += event.data
    except h11.RemoteProtocolError:
        return None
    return None if connection.trailing_data[0] else content


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Bodies in chunks with a few pieces cut out, doubled or put in."""
    chunks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=3))
    data = encoded(
        chunks, draw(st.sampled_from([b"", b";a", b";a=b"])), draw(st.sampled_from([b"", b"X: y\r\n"]))
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 6)))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=2) | st.just(data[at:to] * 2))
        data = data[:at] + piece + data[to:]
    return data


@given(mutations())
@example(b"5\r\nhello\r\n0\r\n\r\n")
def test_what_is_a_body_here_is_the_same_one_for_llhttp_and_h11(body: bytes) -> None:
    """Invariant: a body that is complete here has the same content there; llhttp may know less of extensions,
    which are kept from it, and both refuse trailers that look like framing."""
    try:
        content, reach, complete = read(body, [])
    except ValueError:
        return
    if complete and reach == len(body) and b";" not in body.replace(content, b""):
        assert llhttp_reads(body) == content
    if complete and reach == len(body):
        assert h11_reads(body) == content


def test_byte_by_byte() -> None:
    body = encoded([b"hello", b"\r\n0\r\n\r\n", b"x" * 17], b";a=b", b"X: y\r\n")
    assert read(body, list(range(1, len(body)))) == (b"hello\r\n0\r\n\r\n" + b"x" * 17, len(body), True)


@pytest.mark.parametrize("size", [b"5", b"05", b"00000000000005", b"000000000000005"])
def test_sizes(size: bytes) -> None:
    assert read(size + b"\r\nhello\r\n0\r\n\r\n", [])[0] == b"hello"


def test_size_in_upper_and_lower_case() -> None:
    for size in (b"1a", b"1A"):
        assert read(size + b"\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n", [])[0] == b"x" * 26


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n", b"\n", b";a\r\n", b" 5\r\nhello\r\n", b"5 \r\nhello\r\n", b"\t5\r\n", b"+5\r\nhello",
        b"-5\r\n", b"0x5\r\nhello", b"5h\r\n", b"g\r\n", b"1_0\r\n", b'"5"\r\n', b"5,5\r\n",
        b"\xef\xbc\x95\r\n", b"5\0\r\n", b"0000000000000005\r\nhello", b"ffffffffffffffff\r\n",
        b"10000000000000005\r\n", b"5\nhello\r\n", b"5\rhello\r\n", b"5\r\rhello", b"5\r\nhello\n0\r\n",
        b"5\r\nhello\r0\r\n", b"5\r\nhello0\r\n", b"5\r\nhello!\r\n", b"5\r\nhell\r\n0\r\n\r\n",
        b"5;a\nhello", b"5;a\0b\r\nhello", b"5;a\x0bb\r\n", b"5;a\x7f\r\n", b"5;\ra\r\n",
        b"5;" + b"a" * 9000, b"5;\r\n", b"5; \r\n", b"5;;a\r\n", b"5;=b\r\n", b"5;a=\r\n", b"5;a=;b\r\n",
        b"5;a b\r\n", b"5;a=b c\r\n", b"5;a=b=c\r\n", b"5;a \r\n", b"5;a=b \r\n", b'5;a"b"\r\n',
        b'5;a="b\r\n', b'5;a="b"c\r\n', b'5;a="\\\r\n', b"5;\xc3\xa4\r\n", b"5;a=\xc3\xa4\r\n",
        b'5;a="\x1f"\r\n', b"5;a=b\n", b'5;a="b\n"\r\n', b"5 ;a\r\n", b"0\r\n\n", b"0\r\n\rx", b"0\n\r\n",
        b"0\r\n X: y\r\n\r\n", b"0\r\n\tX: y\r\n\r\n", b"0\r\nX: y\n\r\n", b"0\r\nX: \0\r\n\r\n",
        b"0\r\nX: " + b"y" * 9000, b"0\r\n" + b"X:\r\n" * 9000, b"0\r\nX\r\n\r\n", b"0\r\nX : y\r\n\r\n",
        b"0\r\n: y\r\n\r\n", b"0\r\nX\xc3\xa4: y\r\n\r\n", b"0\r\nX\0: y\r\n\r\n",
        b"0\r\nGET / HTTP/1.1\r\n\r\n", b"0\r\nX: y\r\n z\r\n\r\n", b"0;\n\r\n", b"0\r\nX: a\rb\r\n\r\n",
    ],
)  # fmt: skip
def test_malformed(body: bytes) -> None:
    reader = ChunkedReader()
    with pytest.raises(ValueError, match=" ") as caught:
        reader.read(body)
    assert not reader.complete
    assert reader.fault == str(caught.value)
    with pytest.raises(ValueError, match=" "):
        read(body, list(range(1, len(body))))


@pytest.mark.parametrize(
    "name",
    [
        b"Content-Length", b"transfer-encoding", b"HOST", b"Connection", b"Keep-Alive", b"Proxy-Connection",
        b"TE", b"Upgrade", b"HTTP2-Settings", b"Expect", b"X-Forwarded-For", b"x_forwarded_proto",
        b"X-Forwarded-Host", b"Forwarded", b"Via", b"Content_Length", b"Transfer_Encoding",
    ],
)  # fmt: skip
def test_a_trailer_decides_nothing(name: bytes) -> None:
    body = b"0\r\nX-Sum: 1\r\n" + name + b": 5\r\n\r\n"
    for cuts in ([], list(range(1, len(body)))):
        with pytest.raises(ValueError, match="belongs into the head"):
            read(body, cuts)
    for other in (name + b"x", b"x" + name, name * 40):
        assert read(body.replace(name, other), [])[2]


@given(st.binary(max_size=60) | st.text('5;a="b\\" \t\r\n:0', max_size=30).map(str.encode), st.data())
def test_rubbish_is_judged_alike_in_any_cut(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))

    def outcome(cuts: list[int]) -> object:
        try:
            return read(body, cuts)
        except ValueError as error:
            return str(error)

    assert outcome(cuts) == outcome([])
