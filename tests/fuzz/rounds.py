"""Differential fuzzing, round after round, until the time is over: `make fuzz`.

A round is a few hundred streams made from one number, the seed plus the number of the round, so a find is
made again by starting with that number. Each find becomes a file of tests/corpora/http/found, which the
replay of the corpora runs from then on, until it is understood and has a name in one of the other folders.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvloop

from tests.daemon import Daemon
from tests.fuzz import campaign, peers
from tests.fuzz.campaign import Find
from tests.fuzz.generate import streams
from tests.http.corpus import CORPUS
from tests.replay.recorder import Recorder

STREAMS: Final = 300
_CONFIG: Final = """
upstreams: {{web: {{servers: ['http://127.0.0.1:{}'], concurrency: unlimited}}}}
shedding: {{cpu_pressure: {{signal: none}}}}  # on a machine that is full the bystander would be shed
timeouts: {{head: 2m, body: 2m}}
log: {{access: none}}
"""


@dataclasses.dataclass
class Progress:
    """What was done so far."""

    seed: int
    rounds: int = 0
    sent: int = 0
    passed: int = 0  # requests that arrived whole
    finds: list[Find] = dataclasses.field(default_factory=list)


async def fuzz(daemon_port: int, recorder: Recorder, others: peers.Peers, seed: int, seconds: float,
               tell: Callable[[Progress], None]) -> Progress:  # fmt: skip
    progress = Progress(seed)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number = seed + progress.rounds
        data = list(itertools.islice(streams(number), STREAMS))
        finds, messages = await campaign.run(daemon_port, recorder, data, number)
        finds += [Find(sent, what) for sent, what in await others.differences(messages)]
        progress.rounds += 1
        progress.sent += len(data)
        progress.passed += len(messages)
        progress.finds += [dataclasses.replace(find, what=f"{number}: {find.what}") for find in finds]
        tell(progress)
    return progress


def run(directory: Path, seed: int, seconds: float, tell: Callable[[Progress], None]) -> Progress:
    """All of it, with a daemon and web servers of its own."""

    async def run() -> Progress:
        async with Recorder() as recorder:
            config = directory / "ratelimitd.yaml"
            config.write_text(_CONFIG.format(recorder.port))
            daemon = await asyncio.to_thread(Daemon, directory, ("-c", str(config)))
            try:
                await asyncio.to_thread(daemon.wait_ready)
                done = await fuzz(daemon.port, recorder, others, seed, seconds, tell)
                await asyncio.to_thread(daemon.finish)
            finally:
                daemon.stop()
            return done

    with contextlib.ExitStack() as started:
        others = started.enter_context(peers.running(directory / "peers"))
        runner = started.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        return runner.run(run())


def store(find: Find) -> Path:
    """The find as a file of the corpus, named after what it shows."""
    words = re.sub(r"[^a-z0-9]+", "-", find.what.partition(":")[2].lower()).strip("-")[:40]
    path = CORPUS / "found" / f"{words}-{hashlib.sha256(find.data).hexdigest()[:8]}.http"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(find.data)
    return path
