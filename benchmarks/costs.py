"""What a request costs a proxy in CPU time: measured in turns, compared within each round, printed.

One CPU has the proxies, the other wrk and all that stands behind them; one proxy works at a time, for a few
seconds, in turn, for several rounds. CPU time is what the kernel booked on the proxy's processes. One program
runs twice: while two equal ones differ by more than AGREEMENT the machine is too noisy for a verdict.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks.proxies import Proxy, request_headers
from tests.load import wrk

AGREEMENT: Final = 0.03
CONNECTIONS: Final = 64
SETS: Final = 2


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


Costs = dict[str, list[Cost]]  # of each round, by the name of the proxy


def two_cpus() -> tuple[int, int]:
    """The one of the load and all that stands behind the proxies, and that of the proxies."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("Two CPUs are needed: one for the proxies, one for all that is around them.", file=sys.stderr)
        sys.exit(2)
    return cpus[0], cpus[1]


def pin(pids: list[int], cpu: int) -> None:
    for pid in pids:
        os.sched_setaffinity(pid, {cpu})


def measure(
    proxy: Proxy,
    cpu: int,
    seconds: float,
    script: Path | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Cost:
    """One run of wrk through `proxy`; ends the program when anything was refused or failed."""
    pids = proxy.pids()
    before = Cpu.of(pids)
    counted = wrk(
        proxy.url,
        connections=CONNECTIONS,
        seconds=seconds,
        headers=request_headers(proxy.port),
        prefix=("taskset", "-c", str(cpu)),
        script=script,
        variables=variables,
    )
    after = Cpu.of(pids)
    if counted.refused or counted.socket_errors or not counted.requests:
        print(f"{proxy.name}: the run is void: {counted}", file=sys.stderr)
        sys.exit(2)
    user, system = after.user_ticks - before.user_ticks, after.system_ticks - before.system_ticks
    total_us = (after.total_s - before.total_s) * 1e6 / counted.requests
    return Cost(total_us, total_us * user / max(user + system, 1), counted.rate)


def add_rounds(
    costs: Costs, proxies: Sequence[Proxy], one: Callable[[Proxy], Cost], count: int, what: str = "round"
) -> None:
    """Adds `count` costs of each proxy, the order turned by one place each round."""
    for number in range(count):
        turn = number % len(proxies)
        for proxy in (*proxies[turn:], *proxies[:turn]):
            costs.setdefault(proxy.name, []).append(one(proxy))
        latest = "  ".join(f"{proxy.name} {costs[proxy.name][-1].total_us:.1f}" for proxy in proxies)
        print(f"{what} {number + 1}: {latest}", flush=True)


def ratio(costs: Costs, name: str, beside: str) -> float:
    """How much `name` costs against another: the median over the rounds, each compared within itself."""
    pairs = zip(costs[name], costs[beside], strict=True)
    return statistics.median(one.total_us / other.total_us for one, other in pairs)


def agreed_costs(
    proxies: Sequence[Proxy], one: Callable[[Proxy], Cost], count: int, equal: tuple[str, str]
) -> tuple[Costs, float]:
    """Sets of `count` rounds until two equal programs agree, and by how much these differ in the end."""
    costs: Costs = {}
    for _ in range(SETS):
        add_rounds(costs, proxies, one, count)
        difference = ratio(costs, *equal) - 1
        if abs(difference) <= AGREEMENT:
            break
    return costs, difference


def is_quiet(equal: str, difference: float) -> bool:
    """Says whether the machine was quiet enough for a verdict."""
    if abs(difference) > AGREEMENT:
        print(f"\nNo verdict: two equal {equal} differ by {difference:+.1%}. Is something else running here?")
        return False
    print(f"\nTwo equal {equal} differ by {difference:+.1%}.")
    return True


def print_costs(title: str, costs: Costs, beside: str) -> None:
    of = f"of {beside}"
    print(f"\n{title:<24}{'user':>8}{'system':>8}{'total':>8}{of:>16}{'requests/s':>12}")
    for name, rounds in costs.items():
        user, system, total, rate = (
            statistics.median(getattr(cost, field) for cost in rounds)
            for field in ("user_us", "system_us", "total_us", "rate")
        )
        of_it = ratio(costs, name, beside)
        print(f"{name:<24}{user:>8.1f}{system:>8.1f}{total:>8.1f}{of_it:>16.2f}{rate:>12,.0f}")
