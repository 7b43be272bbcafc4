"""What a limit that machines share costs, beside counts in memory and beside nginx that asks Redis each time.

One worker has one CPU; wrk, the web server and Redis have the other. Programs take turns for a few seconds,
for several rounds, each compared within its round. Measured are the CPU time of a request whose limits are
warm and of the first request of an unknown client, what the store adds to the slowest of a hundred answers
at half load, and how often four nodes call Redis. Exit 0: all bars hold; 1: one does not; 2: no verdict,
since two equal programs differ by too much, or the store was not there.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from benchmarks.costs import (
    CONNECTIONS,
    Cost,
    Costs,
    add_rounds,
    agreed_costs,
    is_quiet,
    measure,
    pin,
    print_costs,
    ratio,
    two_cpus,
)
from benchmarks.fleet_calls import Calls, Load, calls
from benchmarks.fleet_proxies import MEMORY, MEMORY_AGAIN, NGINX, REDIS, REDIS_TRUSTED, starters
from benchmarks.proxies import Proxy, request_headers, running
from tests.daemon import Daemon
from tests.open_loop import open_loop
from tests.redis_servers import Redis
from tests.servers import Nginx

ROUNDS: Final = 5
WARM_S: Final = 2
FIRST_S: Final = 3
FIRST_SCRIPT: Final = Path(__file__).with_name("wrk_clients.lua")
MOST_LOST: Final = 0.01  # of the decisions: on a busy machine an answer is late now and then
LATENCY_S: Final = 1.5
LATENCY_ROUNDS: Final = 9
LATENCY_AGREEMENT_MS: Final = 0.3
LOADS: Final = (
    Load("10k/s", 20_000, 3, 8, "10k/s at twice its rate"),
    Load("1000/10s", 50, 12, 20, "1000/10s at half load"),
    Load("10/s", 20, 2, 20, "10/s at twice its rate"),
)

_clients = itertools.count(0, 1 << 20)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One promise: what was measured, and what it may be at most."""

    told: str
    measured: float
    bar: float

    @property
    def is_held(self) -> bool:
        return self.measured <= self.bar


def first_requests(proxy: Proxy, cpu: int) -> Cost:
    """The cost of requests that are each the first of another client."""
    return measure(proxy, cpu, FIRST_S, FIRST_SCRIPT, {"FIRST": str(next(_clients))})


def added_p99_ms(proxies: Sequence[Proxy], rate: float, cpu: int) -> list[float]:
    """How much later than through the first of them the slowest of a hundred answers comes through each of
    the others, from when requests were due."""
    p99_ms: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
    for number in range(LATENCY_ROUNDS):
        turn = number % len(proxies)
        for proxy in (*proxies[turn:], *proxies[:turn]):
            load = open_loop(
                proxy.port,
                rate=rate,
                seconds=LATENCY_S,
                connections=CONNECTIONS,
                prefix=("taskset", "-c", str(cpu)),
                headers=request_headers(proxy.port),
            )
            p99_ms[proxy.name].append(load.sheddable.p99_us / 1e3)
        told = "  ".join(f"{name} {of[-1]:.2f}" for name, of in p99_ms.items())
        print(f"round {number + 1}: {told}", flush=True)
    first, *others = p99_ms.values()
    return [
        statistics.median(later - sooner for later, sooner in zip(of, first, strict=True)) for of in others
    ]


def store_calls(directory: Path, origin: int) -> list[Calls]:
    """The first load alone; the others together, as they are next to nothing."""
    results = [calls(directory / "fleet-0", origin, LOADS[0])]
    with ThreadPoolExecutor() as pool:
        others = [
            pool.submit(calls, directory / f"fleet-{number}", origin, load)
            for number, load in enumerate(LOADS[1:], 1)
        ]
        return results + [other.result() for other in others]


def print_verdicts(verdicts: Sequence[Verdict]) -> int:
    print(f"\n{'':<72}{'is':>8}{'bar':>8}")
    for verdict in verdicts:
        said = "holds" if verdict.is_held else "TOO MUCH"
        print(f"{verdict.told:<72}{verdict.measured:>8.3f}{verdict.bar:>8.2f}  {said}")
    return 0 if all(verdict.is_held for verdict in verdicts) else 1


def void_without_store(proxies: Sequence[Proxy]) -> bool:
    """Whether too much was decided without the store for this to tell what it costs."""
    for proxy in proxies:
        if isinstance(proxy.process, Daemon) and proxy.name not in (MEMORY, MEMORY_AGAIN):
            metrics = proxy.process.metrics()
            lost = metrics.total("ratelimitd_store_fallback_total")
            decided = metrics.total("ratelimitd_limit_decisions_total")
            if lost > MOST_LOST * decided or not metrics.total("ratelimitd_store_calls_total", result="ok"):
                print(
                    f"\nNo verdict: {proxy.name} decided {lost:,.0f} of {decided:,.0f} times without Redis."
                )
                return True
    return False


def run(directory: Path, redis: Redis, origin: int, client_cpu: int, proxy_cpu: int) -> int:
    programs = starters(redis.port)
    first: Costs = {}
    with running(directory, origin, list(programs), programs) as proxies:
        named = {proxy.name: proxy for proxy in proxies}
        for proxy in proxies:
            pin(proxy.pids(), proxy_cpu)
            measure(proxy, client_cpu, 1)
        print("CPU µs per request, warm")
        warm, difference = agreed_costs(
            [named[name] for name in (MEMORY, MEMORY_AGAIN, REDIS, NGINX)],
            lambda proxy: measure(proxy, client_cpu, WARM_S),
            ROUNDS,
            (MEMORY_AGAIN, MEMORY),
        )
        print("CPU µs per first request of a client")
        newcomers = [named[REDIS_TRUSTED], named[NGINX]]
        add_rounds(first, newcomers, lambda proxy: first_requests(proxy, client_cpu), ROUNDS)
        half = statistics.median(cost.rate for cost in warm[REDIS]) / 2
        print(f"p99 in ms at {half:,.0f} requests/s")
        timed = [named[name] for name in (MEMORY, MEMORY_AGAIN, REDIS)]
        apart_ms, added_ms = added_p99_ms(timed, half, client_cpu)
        if void_without_store(proxies):
            return 2
    counted = store_calls(directory, origin)
    clients = sum(cost.rate for cost in first[REDIS_TRUSTED]) * FIRST_S
    print_costs("CPU µs per request, warm", warm, MEMORY)
    print_costs("CPU µs per first request", first, NGINX)
    print(f"\n{'Redis calls of four nodes':<32}{'requests':>10}{'calls':>10}{'late or lost':>14}")
    for load, found in zip(LOADS, counted, strict=True):
        print(f"{load.told:<32}{found.requests:>10,.0f}{found.calls:>10,.0f}{found.late:>14,.0f}")
    code = print_verdicts(
        [
            Verdict("CPU of a request, warm leases, of the memory store's", ratio(warm, REDIS, MEMORY), 1.05),
            Verdict("the same, of nginx + Lua's", ratio(warm, REDIS, NGINX), 0.32),
            Verdict(
                f"CPU of a client's first request, {clients:,.0f} clients, of nginx + Lua's",
                ratio(first, REDIS_TRUSTED, NGINX),
                0.5,
            ),
            Verdict(f"ms that the store adds to p99 at {half:,.0f} requests/s", added_ms, 1.0),
            Verdict(f"Redis calls per request, 4 nodes, {LOADS[0].told}", counted[0].per_request, 0.05),
            Verdict(f"Redis calls per request, 4 nodes, {LOADS[1].told}", counted[1].per_request, 0.10),
            Verdict("the most Redis calls per request of any load", max(c.per_request for c in counted), 1.0),
        ]
    )
    if abs(apart_ms) > LATENCY_AGREEMENT_MS:
        print(f"\nNo verdict on p99: through two equal ratelimitd it differs by {apart_ms:+.2f} ms.")
        code = max(code, 2)
    return code if is_quiet("ratelimitd", difference) else 2


def main() -> int:
    client_cpu, proxy_cpu = two_cpus()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ratelimitd-bench-") as name:
        directory = Path(name)
        with Nginx(directory / "origin") as origin, Redis(directory / "store") as redis:
            pin(Proxy("origin", origin, origin.port).pids(), client_cpu)
            pin([redis.pid], client_cpu)
            code = run(directory, redis, origin.port, client_cpu, proxy_cpu)
    print(f"{time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
