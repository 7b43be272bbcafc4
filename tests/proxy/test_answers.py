"""Every answer of the corpus, from a web server behind the daemon: whole, in random pieces and byte by byte.

What passes is the same however it came, an error before the head has passed is 502, a later one ends the
client's connection; and what a server said too much reaches nobody.
"""

from __future__ import annotations

import dataclasses
import random
import re

import pytest

from ratelimitd.http.body import ChunkedReader
from tests.daemon import Daemon
from tests.http import corpus
from tests.http.corpus import Answered
from tests.proxy.recording import Recording, answer_ok, answering_then_closing
from tests.proxy.talking import Client, get

ANSWERS = corpus.answers()
BYTE_BY_BYTE = 300  # what is longer is only cut at random
OF_THE_WAY = re.compile(rb"(?i)\r\n(date|x-request-id): [^\r]*")
MUST_PASS = re.compile(rb"(?im)^(?:x-value|set-cookie|link|x-sum):[^\n]*\n")


@dataclasses.dataclass(frozen=True)
class Outcome:
    verdict: str
    head: bytes
    content: bytes


def ways(data: bytes) -> list[list[bytes]]:
    sent = [[data]]
    for seed in (1, 2):
        places = sorted(random.Random(seed).choices(range(len(data) + 1), k=5))
        sent.append([data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b])
    if len(data) <= BYTE_BY_BYTE:
        sent.append([data[at : at + 1] for at in range(len(data))])
    return sent


def asked(daemon: Daemon) -> tuple[bytes, bool]:
    """All that a client gets, and whether its connection ended in a reset."""
    with Client(daemon.port) as client:
        client.send(get("/", "Connection: close"))
        try:
            return client.rest(), False
        except ConnectionResetError:
            return client.left, True


def read(data: bytes, reset: bool) -> Outcome:
    while data.startswith(b"HTTP/1.1 1"):
        _, end, data = data.partition(b"\r\n\r\n")
        assert end
    head, end, body = data.partition(b"\r\n\r\n")
    head = OF_THE_WAY.sub(b"", head)
    length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
    if not end:
        return Outcome("nothing", head, body)
    if head.startswith(b"HTTP/1.1 502 "):
        return Outcome("502", b"", b"")
    if re.match(rb"HTTP/1.1 (204|304) ", head):
        assert not body
        return Outcome("pass", head, b"")
    if b"\r\ntransfer-encoding:" in head.lower():
        reader = ChunkedReader()
        reach, content = reader.read(body)
        assert reach == len(body)
        return Outcome("pass" if reader.complete else "cut", head, content)
    if length:
        assert len(body) <= int(length[1])
        return Outcome("pass" if len(body) == int(length[1]) else "cut", head, body)
    return Outcome("cut" if reset else "pass", head, body)


def test_each_is_listed() -> None:
    assert corpus.files("answers") == {case.name for case in ANSWERS}


@pytest.mark.parametrize("case", ANSWERS, ids=[case.name for case in ANSWERS])
def test_answer(daemon: Daemon, upstream: Recording, case: Answered) -> None:
    passed = []
    for pieces in ways(case.data):
        upstream.script = answering_then_closing(*pieces)
        raw, reset = asked(daemon)
        found = read(raw, reset)
        assert found.verdict in {"broken": ("502", "cut")}.get(case.verdict, (case.verdict,)), raw[:300]
        if case.verdict == "pass":
            passed.append(found)
            assert found == passed[0]
            assert all(line in raw for line in MUST_PASS.findall(case.data))
            assert b"poison" not in raw
        upstream.script = answer_ok
        assert asked(daemon)[0].endswith(b"\r\n\r\nok")
