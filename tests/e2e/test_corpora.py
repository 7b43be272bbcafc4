"""Every request of the corpora, against the running daemon: the right verdict, the same in every cut.

A recorder as web server shows what arrived, byte for byte. Each case is sent whole, byte by byte and in
random pieces; what arrives of it must be the same each time, and readers of worse manners than the recorder
must find the same requests in it. A bystander's requests are answered all the while.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from pathlib import Path

import pytest
import uvloop

from tests.conftest import StartDaemon
from tests.replay import cases, verdict
from tests.replay.cases import Case
from tests.replay.clients import Crowd
from tests.replay.recorder import Recorder

BEHIND = b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"
CONFIG = """
upstreams: {{web: {{servers: ['http://127.0.0.1:{}'], concurrency: unlimited}}}}
shedding: {{cpu_pressure: {{signal: none}}}}
timeouts: {{head: 2m, body: 2m}}  # for those that come byte by byte
"""
BYTE_BY_BYTE = 700  # cases of more bytes than this are sent so in `make test-slow` only


def whole(case: Case) -> list[bytes]:
    return [case.data]


def byte_by_byte(case: Case) -> list[bytes]:
    return [case.data[at : at + 1] for at in range(len(case.data))]


def in_pieces(case: Case, seed: int) -> list[bytes]:
    cuts = random.Random(f"{case.name}{seed}")
    places = sorted(cuts.randrange(len(case.data) + 1) for _ in range(cuts.randint(1, 6)))
    return [case.data[a:b] for a, b in zip([0, *places], [*places, len(case.data)], strict=True) if a < b]


@dataclasses.dataclass(frozen=True)
class Sent:
    how: str
    case: Case
    pieces: list[bytes]


def ways(corpus: list[Case], *, everything: bool) -> list[Sent]:
    """Each case in each way; those cut into single bytes last, the short ones first, so that few wait."""
    sent = [Sent("whole", case, whole(case)) for case in corpus]
    for seed in range(10 if everything else 2):
        sent += [Sent(f"pieces {seed}", case, in_pieces(case, seed)) for case in corpus]
    ending = [case for case in corpus if case.ends]
    sent += [Sent("with a request behind it", case, [case.data + BEHIND]) for case in ending]
    short = [case for case in corpus if everything or len(case.data) <= BYTE_BY_BYTE]
    short.sort(key=lambda case: len(case.data))
    return sent + [Sent("byte by byte", case, byte_by_byte(case)) for case in short]


async def replay(daemon_port: int, recorder: Recorder, sent: list[Sent]) -> list[str]:
    """What went wrong, a line each."""
    crowd = Crowd(daemon_port)
    answered = await crowd.send([one.pieces for one in sent])
    crowd.close()
    arrived = recorder.by_client()
    faults = recorder.faults()
    first: dict[Case, verdict.Outcome] = {}
    for one, (source, answers) in zip(sent, answered, strict=True):
        found = verdict.outcome(source, answers, arrived.pop(source, []))
        wrong = verdict.fault(one.case, source, answers, found)
        if wrong is None and first.setdefault(one.case, found) != found:
            wrong = f"{found} for {first[one.case]}"
        if wrong is not None:
            faults.append(f"{one.case.name}, {one.how}: {wrong}")
    return faults


def replayed(start_daemon: StartDaemon, tmp_path: Path, corpus: list[Case], *, everything: bool) -> list[str]:
    async def run() -> list[str]:
        async with Recorder() as recorder:
            config = tmp_path / "ratelimitd.yaml"
            config.write_text(CONFIG.format(recorder.port))
            daemon = await asyncio.to_thread(start_daemon, "-c", str(config))
            return await replay(daemon.port, recorder, ways(corpus, everything=everything))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def test_our_own(start_daemon: StartDaemon, tmp_path: Path) -> None:
    assert replayed(start_daemon, tmp_path, cases.own(), everything=False) == []


@pytest.mark.slow
def test_our_own_in_all_cuts(start_daemon: StartDaemon, tmp_path: Path) -> None:
    assert replayed(start_daemon, tmp_path, cases.own(), everything=True) == []


def foreign() -> list[Case]:
    folder = cases.folder()
    if folder is None:
        pytest.skip("HTTP_CORPORA names no folder with cases of others")
    found = cases.foreign(folder)
    assert found
    return found


def test_those_of_others(start_daemon: StartDaemon, tmp_path: Path) -> None:
    assert replayed(start_daemon, tmp_path, foreign(), everything=False) == []


@pytest.mark.slow
def test_those_of_others_in_all_cuts(start_daemon: StartDaemon, tmp_path: Path) -> None:
    assert replayed(start_daemon, tmp_path, foreign(), everything=True) == []
