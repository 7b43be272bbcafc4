"""One round of differential fuzzing: what strange clients send, through the daemon, and who reads it how.

Three comparisons. What passed is what llhttp and h11 read in the client's bytes, request by request. What
arrived is read alike by them and by the naive readers. And the web servers of other people that are asked to
read it find the same requests. Who refuses where others read is no danger, as long as it says so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Final

from ratelimitd.http.methods import UNKNOWN_TO_LLHTTP
from tests.fuzz import readers
from tests.fuzz.generate import pieces
from tests.fuzz.readers import Request
from tests.replay import verdict
from tests.replay.cases import Case, Expect
from tests.replay.clients import Crowd
from tests.replay.messages import Message
from tests.replay.recorder import Recorder

_ABSOLUTE: Final = re.compile(rb"(?i)https?://[^/?]*")


@dataclasses.dataclass(frozen=True)
class Find:
    """A stream of bytes that shows a fault."""

    data: bytes
    what: str


async def run(
    port: int, recorder: Recorder, data: Sequence[bytes], seed: int
) -> tuple[list[Find], list[Message]]:
    """Sends each stream from a client of its own; what was found, and all that arrived whole."""
    recorder.forget()
    crowd = Crowd(port)
    answered = await crowd.send([pieces(stream, seed + number) for number, stream in enumerate(data)])
    crowd.close()
    arrived = recorder.by_client()
    finds = [Find(b"", fault) for fault in recorder.faults()]
    for stream, (source, answers) in zip(data, answered, strict=True):
        messages = arrived.pop(source, [])
        found = verdict.outcome(source, answers, messages)
        fault = verdict.fault(Case("", Expect.EITHER, stream), source, answers, found)
        faults = [fault] if fault else []
        faults += differences(stream, messages)
        finds += [Find(stream, fault) for fault in faults]
    return finds, [message for message in recorder.messages if message.target != b"/bystander"]


def as_read(message: Message) -> Request:
    return Request(message.method, message.target, message.content)


def differences(stream: bytes, messages: Sequence[Message]) -> Iterable[str]:
    """Where llhttp and h11 differ from us, on what a client sent or on what was passed on of it."""
    ours = [as_read(message) for message in messages]
    for name, reader in (("llhttp", readers.llhttp), ("h11", readers.h11_)):
        found, stopped = reader(stream)
        for number, request in enumerate(ours):
            if number == len(found):
                if not _is_known(name, stopped, request, stream):
                    yield f"{name} stops before {request}: {stopped or 'it waits for more'}"
                break
            if _offers_http2(name, stopped, found[number:], stream):
                break
            if not _same(found[number], request):
                yield f"{name} reads {found[number]} for {request}"
                break
        for message, request in zip(messages, ours, strict=True):
            found, stopped = reader(message.head + message.body)
            if found != [request] and not (name == "llhttp" and _is_beyond_llhttp(request, stopped)):
                yield f"{name} reads {found} ({stopped}) in what was passed on: {request}"


def _same(theirs: Request, ours: Request) -> bool:
    """Whether a request that came is the one that went on, in origin-form and plain spelling."""
    target = b"".join(b"%%%02X" % byte if byte > 127 else b"%c" % byte for byte in theirs.target)
    path = _ABSOLUTE.sub(b"", target)
    origin = path if path.startswith(b"/") else b"/" + path
    targets = {target, origin, b"*" if theirs.method == b"OPTIONS" and not path else origin}
    return (theirs.method, theirs.content) == (ours.method, ours.content) and ours.target in targets


def _offers_http2(name: str, stopped: str, last: Sequence[Request], stream: bytes) -> bool:
    """Whether llhttp leaves the body to the protocol that is offered, where we go on with HTTP/1.1."""
    return name == "llhttp" and stopped == "upgrade" and len(last) == 1 and b"h2c" in stream.lower()


def _is_beyond_llhttp(request: Request, stopped: str) -> bool:
    return request.method in UNKNOWN_TO_LLHTTP or stopped == "upgrade"


def _is_known(name: str, stopped: str, request: Request, stream: bytes) -> bool:
    """Whether a reader refuses what we mean to accept: tests/corpora/POLICY.md says which and why."""
    if not stopped:
        return False
    if name == "llhttp" and _is_beyond_llhttp(request, stopped):
        return True
    if stopped.startswith("Data after") and b"proxy-connection" in stream.lower():
        return True  # which we do not read (RFC 9112, C.2.2)
    mended = b"%" in request.target and any(byte > 127 for byte in stream)
    return mended or (name == "llhttp" and b"chunk extension" in stopped.lower().encode())
