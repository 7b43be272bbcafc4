"""Load with the tools that operators know: wrk and h2load, and what they counted."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

SUMMARY: Final = Path(__file__).with_name("wrk_summary.lua")
FIXED_RATE: Final = Path(__file__).with_name("wrk_rate.lua")


@dataclasses.dataclass(frozen=True)
class Wrk:
    """What wrk counted: whole answers, errors of the socket and of time, answers that were not 2xx or 3xx."""

    requests: int
    duration_us: int
    socket_errors: int
    refused: int
    latency_p50_us: int
    latency_p99_us: int

    @property
    def rate(self) -> float:
        return self.requests / (self.duration_us / 1e6)


def wrk(
    url: str,
    *,
    connections: int,
    seconds: float,
    headers: Sequence[str] = (),
    prefix: Sequence[str] = (),
    rate: float = 0,
    script: Path | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Wrk:
    """Runs wrk with one thread; `prefix` is a command to run it under, such as taskset. With a `rate`, that
    many requests are sent per second, whatever the answers do, while connections are free. A `script` runs
    wrk_summary.lua at its end, and finds `variables` in its environment."""
    script = script or (FIXED_RATE if rate else SUMMARY)
    command = [*prefix, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script)]
    command += [part for header in headers for part in ("-H", header)]
    environ = os.environ | {"RATE": str(rate), "WRK_SUMMARY": str(SUMMARY), **variables}
    output = subprocess.run(
        [*command, url], capture_output=True, text=True, check=True, timeout=seconds + 20, env=environ
    ).stdout
    return Wrk(**json.loads(output.splitlines()[-1]))


@dataclasses.dataclass(frozen=True)
class H2load:
    """What h2load counted: answers by the class of their status, and requests without an answer."""

    ok: int
    client_errors: int
    server_errors: int
    failed: int


def h2load(url: str, *, requests: int, connections: int, threads: int = 1) -> H2load:
    """Runs h2load over HTTP/1.1."""
    command = ["h2load", "--h1", "-n", str(requests), "-c", str(connections), "-t", str(threads), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    statuses = re.search(r"status codes: (\d+) 2xx, \d+ 3xx, (\d+) 4xx, (\d+) 5xx", output)
    broken = re.search(r"(\d+) errored, (\d+) timeout", output)
    assert statuses, output
    assert broken, output
    ok, client_errors, server_errors = map(int, statuses.groups())
    return H2load(ok, client_errors, server_errors, sum(map(int, broken.groups())))
