"""Replies of ratelimitd's own: complete messages, for programs or for people, made once per cause."""

from __future__ import annotations

import json

import pytest

from ratelimitd.config.model import ReplyOverride
from ratelimitd.http.replies import Replies, Reply, wants_text
from ratelimitd.http.values import read_response

STATUSES = [400, 403, 404, 405, 408, 411, 413, 414, 429, 431, 501, 502, 503, 504, 505]
DATE = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"


def parts(
    reply: Reply, *, close: bool = False, head_only: bool = False
) -> tuple[int, dict[bytes, bytes], bytes]:
    data = reply.render(DATE, close=close, head_only=head_only)
    head = read_response(data)
    assert head is not None
    assert len({name for name, _ in head.fields}) == len(head.fields)
    return head.status, dict(head.fields), data[head.end :]


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("status", STATUSES)
def test_every_reply_is_a_whole_message(status: int, as_text: bool) -> None:
    got, fields, body = parts(Replies().get(status, "what happened", as_text=as_text))
    assert got == status
    assert {b"Date", b"Content-Length", b"Content-Type"} <= fields.keys()
    assert fields[b"Cache-Control"] == b"no-store"
    assert int(fields[b"Content-Length"]) == len(body)
    assert b"what happened" in body


def test_programs_get_a_problem() -> None:
    _, fields, body = parts(Replies().get(429, "too many", limit="per-client"))
    assert fields[b"Content-Type"] == b"application/problem+json"
    assert json.loads(body) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "too many",
        "limit": "per-client",
    }


def test_people_get_text() -> None:
    _, fields, body = parts(Replies().get(413, "the body is too large", as_text=True))
    assert fields[b"Content-Type"] == b"text/plain; charset=utf-8"
    assert body == b"413 Content Too Large: the body is too large\n"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (b"text/html,application/xhtml+xml,*/*;q=0.8", True),
        (b"text/plain", True),
        (b"application/json", False),
        (b"application/json, text/plain, */*", False),
        (b"application/problem+json, text/html", False),
        (b"*/*", False),
        (b"", False),
    ],
)
def test_accept(accept: bytes, expected: bool) -> None:
    assert wants_text(accept) is expected


def test_the_end_of_the_connection_is_said() -> None:
    assert parts(Replies().get(400, "x"), close=True)[1][b"Connection"] == b"close"
    assert b"Connection" not in parts(Replies().get(400, "x"))[1]


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    reply = Replies().get(404, "no route")
    _, fields, body = parts(reply, head_only=True)
    assert int(fields[b"Content-Length"]) > 0
    assert body == b""


def test_an_operator_may_write_a_reply() -> None:
    own = ReplyOverride(429, b"<h1>slow</h1>", "text/html", (("Access-Control-Allow-Origin", "*"),))
    replies = Replies((own,))
    status, fields, body = parts(replies.get(429, "x", limit="per-client", as_text=True))
    assert (status, body) == (429, b"<h1>slow</h1>")
    assert fields[b"Access-Control-Allow-Origin"] == b"*"
    assert fields[b"Content-Type"] == b"text/html"
    assert parts(replies.get(403, "denied"))[0] == 403


def test_each_cause_has_one_reply() -> None:
    replies = Replies()
    assert replies.get(429, "x", limit="a") is replies.get(429, "x", limit="a")
    assert replies.get(429, "x", limit="a") is not replies.get(429, "x", limit="b")
