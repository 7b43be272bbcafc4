"""CPU per proxied request of ratelimitd beside nginx, HAProxy and a bare relay, in under two minutes.

wrk and the origin have one CPU, the proxies the other; one proxy works at a time, for a few seconds, in turn,
for several rounds. CPU time is what the kernel booked on the proxy's processes. nginx runs twice: as long as
two equal programs differ by more than 3 %, the machine is too noisy for a verdict and another set of rounds
is run. Exit 0: ratelimitd costs at most BAR times nginx; 1: more; 2: no verdict.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.proxies import Proxy, request_headers, running
from tests.load import wrk
from tests.servers import Nginx

BAR: Final = 1.05
AGREEMENT: Final = 0.03
NAMES: Final = ("ratelimitd", "nginx", "nginx again", "HAProxy", "bare relay")
CONNECTIONS: Final = 64
ROUNDS: Final = 4
SETS: Final = 2
ROUND_S: Final = 2
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Cpu:
    """CPU time of some processes: the total is exact, its division between user and system in clock ticks."""

    total_s: float
    user_ticks: int
    system_ticks: int

    @classmethod
    def of(cls, pids: list[int]) -> Cpu:
        total_ns = user = system = 0
        for pid in pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                total_ns += int((task / "schedstat").read_text().split()[0])
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user, system = user + int(fields[11]), system + int(fields[12])
        return cls(total_ns / 1e9, user, system)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one proxy cost in one round, in microseconds of CPU per request."""

    total_us: float
    user_us: float
    rate: float

    @property
    def system_us(self) -> float:
        return self.total_us - self.user_us


def pin(pids: list[int], cpu: int) -> None:
    for pid in pids:
        os.sched_setaffinity(pid, {cpu})


def measure(proxy: Proxy, cpu: int, seconds: float) -> Cost:
    """One run of wrk through `proxy`; ends the program when anything was refused or failed."""
    pids = proxy.pids()
    before = Cpu.of(pids)
    counted = wrk(
        proxy.url,
        connections=CONNECTIONS,
        seconds=seconds,
        headers=request_headers(proxy.port),
        prefix=("taskset", "-c", str(cpu)),
    )
    after = Cpu.of(pids)
    if counted.refused or counted.socket_errors or not counted.requests:
        print(f"{proxy.name}: the run is void: {counted}", file=sys.stderr)
        sys.exit(2)
    user, system = after.user_ticks - before.user_ticks, after.system_ticks - before.system_ticks
    total_us = (after.total_s - before.total_s) * 1e6 / counted.requests
    return Cost(total_us, total_us * user / max(user + system, 1), counted.rate)


def run_rounds(proxies: list[Proxy], cpu: int, costs: dict[str, list[Cost]]) -> None:
    """Adds ROUNDS costs of each proxy, the order turned by one place each round."""
    for number in range(ROUNDS):
        for proxy in proxies[number % len(proxies) :] + proxies[: number % len(proxies)]:
            costs[proxy.name].append(measure(proxy, cpu, ROUND_S))
        latest = "  ".join(f"{name} {rounds[-1].total_us:.1f}" for name, rounds in costs.items())
        print(f"round {len(costs['nginx'])}: {latest}", flush=True)


def ratio(costs: dict[str, list[Cost]], name: str) -> float:
    """How much `name` costs against nginx: the median over the rounds, each compared within itself."""
    pairs = zip(costs[name], costs["nginx"], strict=True)
    return statistics.median(one.total_us / other.total_us for one, other in pairs)


def print_table(costs: dict[str, list[Cost]]) -> None:
    print(
        f"\n{'CPU µs per request':<20}{'user':>8}{'system':>8}{'total':>8}{'of nginx':>9}{'requests/s':>12}"
    )
    for name, rounds in costs.items():
        user, system, total, rate = (
            statistics.median(getattr(cost, field) for cost in rounds)
            for field in ("user_us", "system_us", "total_us", "rate")
        )
        print(f"{name:<20}{user:>8.1f}{system:>8.1f}{total:>8.1f}{ratio(costs, name):>10.2f}{rate:>12,.0f}")


def verdict(costs: dict[str, list[Cost]]) -> int:
    """Prints what follows from the rounds, and gives the exit code."""
    difference = ratio(costs, "nginx again") - 1
    if abs(difference) > AGREEMENT:
        print(f"\nNo verdict: two equal nginx differ by {difference:+.1%}. Is something else running here?")
        return 2
    own = ratio(costs, "ratelimitd")
    print(f"\nTwo equal nginx differ by {difference:+.1%}.")
    print(f"ratelimitd costs {own:.2f} of nginx; the bar is {BAR:.2f}.")
    return 0 if own <= BAR else 1


def main() -> int:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("Two CPUs are needed: one for the proxies, one for wrk and the origin.", file=sys.stderr)
        return 2
    client_cpu, proxy_cpu = cpus[:2]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ratelimitd-bench-") as name:
        directory = Path(name)
        with Nginx(directory / "origin") as origin, running(directory, origin.port, NAMES) as proxies:
            pin(Proxy("origin", origin, origin.port).pids(), client_cpu)
            for proxy in proxies:
                pin(proxy.pids(), proxy_cpu)
                measure(proxy, client_cpu, 1)
            costs: dict[str, list[Cost]] = {proxy.name: [] for proxy in proxies}
            for _ in range(SETS):
                run_rounds(proxies, client_cpu, costs)
                if abs(ratio(costs, "nginx again") - 1) <= AGREEMENT:
                    break
    print_table(costs)
    code = verdict(costs)
    print(f"{time.monotonic() - started:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
