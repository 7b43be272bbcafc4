"""A load with intended send times in two classes (open_loop.c, compiled when it is first asked for)."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.compiled import compiled

SOURCE: Final = Path(__file__).with_name("open_loop.c")


@dataclasses.dataclass(frozen=True)
class Class:
    """What became of the requests of one class; waits are those of the answers with 2xx, from when their
    requests were due."""

    due: int
    sent: int
    ok: int
    refused: int
    failed: int
    broken: int
    p50_us: int
    p90_us: int
    p99_us: int
    first_refusal_us: int
    quarters: list[int]


@dataclasses.dataclass(frozen=True)
class Load:
    """`critical` asked for /pay, `sheddable` for /feed; `p50_us` is the median wait of both."""

    sheddable: Class
    critical: Class
    p50_us: int

    @property
    def ok(self) -> int:
        return self.sheddable.ok + self.critical.ok

    @property
    def refused(self) -> int:
        return self.sheddable.refused + self.critical.refused


def open_loop(
    port: int,
    *,
    rate: float,
    seconds: float,
    connections: int,
    critical: int = 10,
    prefix: Sequence[str] = (),
    headers: Sequence[str] = (),
) -> Load:
    """`rate` requests a second, every `critical`th of them critical; 0: as fast as answers come."""
    numbers = [str(number) for number in (port, rate, seconds, connections, critical)]
    command = [*prefix, str(compiled(SOURCE)), *numbers, *headers]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    found = json.loads(output)
    return Load(Class(**found["sheddable"]), Class(**found["critical"]), found["p50_us"])
