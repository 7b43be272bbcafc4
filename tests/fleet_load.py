"""Clients that ask for random paths through random nodes (fleet_load.c, compiled when it is first asked for).

They run beside the test, which kills, starts and changes nodes meanwhile; then every answer is there, with
when its request was sent, how long it took and who gave it.
"""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.compiled import compiled
from tests.servers import Process

SOURCE: Final = Path(__file__).with_name("fleet_load.c")
BROKEN, UNANSWERED = 0, 1
_RECORD: Final = struct.Struct("<qIIHBB")


class Answer(NamedTuple):
    """One request: `sent_us` on the wall clock, `number` is in its target, `node` and `path` count from 0.
    The status of one without an answer is BROKEN or UNANSWERED."""

    sent_us: int
    wait_us: int
    number: int
    status: int
    node: int
    path: int


class FleetLoad(Process):
    """`rate` requests a second for `paths` through `addresses` (IP:PORT), for `seconds` and not longer."""

    def __init__(
        self,
        directory: Path,
        addresses: Sequence[str],
        paths: Sequence[str],
        *,
        rate: float,
        seconds: float,
        connections: int = 8,
        seed: int = 1,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._output = Path(tempfile.mkstemp(prefix="answers-", dir=directory)[1])
        self._seconds = seconds
        numbers = [str(number) for number in (rate, seconds, connections, seed)]
        command = [str(compiled(SOURCE)), str(self._output), *numbers, ",".join(paths), *addresses]
        super().__init__("load", command, directory)

    def answers(self) -> list[Answer]:
        """All answers, in the order in which their requests were sent, once the load is over."""
        assert self.wait(self._seconds + 60) == 0, self.stderr
        return sorted(Answer._make(values) for values in _RECORD.iter_unpack(self._output.read_bytes()))


def statuses(answers: Iterable[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def wait_quantile_us(answers: Sequence[Answer], part: float) -> int:
    """The wait that `part` of the answers did not exceed."""
    waits = sorted(answer.wait_us for answer in answers)
    return waits[min(len(waits) - 1, int(len(waits) * part))]
