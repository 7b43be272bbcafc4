"""Answers of the store as they come: whole or in pieces, numbers or not, each reaches its token, in order."""

from __future__ import annotations

import itertools
from typing import Any

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.fleet.link import Link
from ratelimitd.fleet.topology_values import StoreServer

WHOLE = st.integers(-(2**63), 2**63 - 1)
ANSWERS = st.one_of(
    st.lists(st.one_of(WHOLE, st.integers(-1, 1000)), max_size=20),
    WHOLE,
    st.binary(max_size=20),
    st.none(),
    st.sampled_from(["NOSCRIPT No matching script", "OOM command not allowed"]),
    st.lists(st.one_of(WHOLE, st.binary(max_size=5), st.lists(WHOLE, max_size=3)), max_size=4),
)


def sent(answer: Any) -> bytes:
    """As a server writes it (RESP2)."""
    if isinstance(answer, list):
        return b"*%d\r\n" % len(answer) + b"".join(map(sent, answer))
    if isinstance(answer, bytes):
        return b"$%d\r\n%b\r\n" % (len(answer), answer)
    if isinstance(answer, str):
        return b"-%b\r\n" % answer.encode()
    return b"$-1\r\n" if answer is None else b":%d\r\n" % answer


def told(reply: Any) -> Any:
    return str(reply) if isinstance(reply, hiredis.ReplyError) else reply


@given(st.lists(ANSWERS, max_size=12), st.lists(st.integers(0, 400)))
def test_each_answer_reaches_its_token(answers: list[Any], cuts: list[int]) -> None:
    """Invariant: wherever the bytes are cut, the tokens get what hiredis reads in them, in order."""
    got: list[tuple[int, Any]] = []
    link = Link(StoreServer("nowhere", 1), lambda token, reply: got.append((token, told(reply))))
    stream = b"".join(map(sent, answers))
    for number in range(len(answers)):
        link.call(b"", number)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for begin, end in itertools.pairwise(places):
        link.data_received(stream[begin:end])
    assert got == list(enumerate(answers))
    assert link.pending == 0
    assert not link.in_pieces


def test_what_nobody_asked_for_ends_the_link() -> None:
    got: list[Any] = []
    link = Link(StoreServer("nowhere", 1), lambda token, reply: got.append((token, reply)))
    link.call(b"", "one")
    link.data_received(b"*1\r\n:1\r\n*1\r\n:2\r\n*1\r\n:3\r\n")
    assert got == [("one", [1])]
    assert not link.is_open
