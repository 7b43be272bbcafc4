"""How often four nodes ask Redis for one limit that they share: calls per request, at loads that matter.

Each fleet has a Redis of its own. The first seconds of each load are not counted: a limit is at its load once
a window has passed.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.daemon import Daemon
from tests.open_loop import open_loop
from tests.redis_servers import Redis
from tests.servers import LOOPBACK, wait_until

NODES: Final = 4
_CONNECTIONS: Final = 16


@dataclasses.dataclass(frozen=True)
class Load:
    """A limit for all clients, and how many requests a second come for it over all nodes."""

    limit: str
    rate: float
    warm_s: float
    counted_s: float
    told: str


@dataclasses.dataclass(frozen=True)
class Calls:
    """What was counted of one load."""

    requests: float
    calls: float
    late: float  # calls without an answer in time, or with an error

    @property
    def per_request(self) -> float:
        return self.calls / max(self.requests, 1)


def _counted(nodes: list[Daemon]) -> Calls:
    pages = [node.metrics() for node in nodes]
    calls = sum(page.total("ratelimitd_store_calls_total") for page in pages)
    good = sum(page.total("ratelimitd_store_calls_total", result="ok") for page in pages)
    return Calls(sum(page.total("ratelimitd_requests_total") for page in pages), calls, calls - good)


def _shares(node: Daemon) -> bool:
    return node.metrics().total("ratelimitd_store_up") == 1


@contextmanager
def _fleet(directory: Path, origin: int, limit: str) -> Iterator[list[Daemon]]:
    """Nodes before one web server that share one limit, each of which knows of all."""
    with ExitStack() as stack:
        redis = stack.enter_context(Redis(directory / "redis"))
        configuration = directory / "ratelimitd.yaml"
        configuration.write_text(f"""
upstreams: {{origin: {{servers: ["http://{LOOPBACK}:{origin}"]}}}}
limits: [{{name: global, per: global, rate: {limit}}}]
store: {redis.url}
log: {{access: none}}
""")
        arguments = ["-c", str(configuration)]
        nodes = [stack.enter_context(Daemon(directory / f"node-{n}", arguments)) for n in range(NODES)]
        for node in nodes:
            node.wait_ready()
            wait_until(functools.partial(_shares, node), "the node shares its limit")
        time.sleep(2)  # two heartbeats: each has counted the others
        yield nodes


def calls(directory: Path, origin: int, load: Load) -> Calls:
    """Four nodes with an equal part of `load` each, and what they asked of Redis once it was warm."""
    directory.mkdir()
    with _fleet(directory, origin, load.limit) as nodes, ThreadPoolExecutor(NODES) as pool:
        seconds = load.warm_s + load.counted_s
        running = [
            pool.submit(
                open_loop,
                node.port,
                rate=load.rate / NODES,
                seconds=seconds,
                connections=_CONNECTIONS,
            )
            for node in nodes
        ]
        time.sleep(load.warm_s)
        before = _counted(nodes)
        for one in running:
            one.result()
        after = _counted(nodes)
    return Calls(after.requests - before.requests, after.calls - before.calls, after.late - before.late)
