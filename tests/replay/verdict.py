"""What became of a case: how it was answered, what of it arrived, and whether that was right.

Accepted: its first request arrived whole, once, and was answered. Refused: an error of ours that ends the
connection, or the end alone when the request never became whole, and no complete request upstream.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from tests.replay.cases import Case, Expect
from tests.replay.clients import Answer
from tests.replay.messages import Message

_REQUEST_ID: Final = re.compile(rb"(?i)\r\nx-request-id: [0-9a-f]{32}\r\n")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What must be the same however a case is cut. `requests` are those that arrived whole, without what
    differs from one client to the next."""

    statuses: tuple[int, ...]
    requests: tuple[bytes, ...]

    @property
    def accepted(self) -> bool:
        return self.statuses[:1] == (200,)


def outcome(source: str, answers: tuple[Answer, ...], messages: list[Message]) -> Outcome:
    return Outcome(tuple(answer.status for answer in answers), tuple(_plain(source, m) for m in messages))


def _plain(source: str, message: Message) -> bytes:
    head = _REQUEST_ID.sub(b"\r\n", message.head)
    return (
        head.replace(b"\r\nX-Forwarded-For: " + source.encode(), b"\r\nX-Forwarded-For: CLIENT")
        + message.body
    )


def fault(case: Case, source: str, answers: tuple[Answer, ...], found: Outcome) -> str | None:
    """What is wrong with an outcome; None: nothing."""
    passed = [answer for answer in answers if answer.status == 200]
    if len(passed) != len(found.requests):
        return f"{len(passed)} answers of the web server to {len(found.requests)} requests"
    if any(answer.body not in (b"", source.encode()) for answer in passed):
        return "somebody else's answer"
    if any(answer.closes for answer in answers[:-1]):
        return "more answers behind the last one"
    if any(status != 200 for status in found.statuses[:-1]) or not set(found.statuses) <= _EXPECTED:
        return f"answers {found.statuses}"
    if answers and answers[-1].status != 200 and not answers[-1].closes:
        return "an error that does not end the connection"
    if case.expect is Expect.ACCEPT and not found.accepted:
        return "refused"
    if case.expect is Expect.REJECT and found.requests:
        return "accepted"
    if case.statuses and found.statuses != case.statuses:
        return f"answered with {found.statuses}, not {case.statuses}"
    return None


_EXPECTED: Final = frozenset({200, 400, 405, 411, 413, 414, 431, 501, 505})
