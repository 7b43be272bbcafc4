"""CPU per gigabyte of large bodies, down and up, beside nginx and HAProxy, in under a minute.

curl and the origin have one CPU, the proxies the other; one proxy works at a time, in turn, for several
rounds, each with a few bodies of 64 MiB over one connection. As in `quick`, nginx runs twice, and two equal
programs that differ make the verdict void. Exit 0: ratelimitd costs at most BAR times nginx, in both
directions; 1: more; 2: no verdict.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.bulk_origin import BODY_BYTES
from benchmarks.proxies import Proxy, running
from benchmarks.quick import Cpu, pin
from tests.servers import Process, free_port

BAR: Final = 1.00
AGREEMENT: Final = 0.05
BODIES: Final = 3
ROUNDS: Final = 8
NAMES: Final = ("ratelimitd", "nginx", "nginx again", "HAProxy")

Costs = dict[str, list[float]]  # ms of CPU per GB, by the name of the proxy


def measure(proxy: Proxy, cpu: int, transfer: list[str]) -> float:
    """One run of curl through `proxy`, with `transfer` for each body."""
    pids = proxy.pids()
    before = Cpu.of(pids)
    command = ["taskset", "-c", str(cpu), "curl", "-sSf", "-H", "Expect:"]
    subprocess.run([*command, *[*transfer, proxy.url] * BODIES], stdout=subprocess.DEVNULL, check=True)
    return (Cpu.of(pids).total_s - before.total_s) * 1e3 / (BODIES * BODY_BYTES / 1e9)


def ratio(costs: Costs, name: str) -> float:
    """How much `name` costs against nginx: the median over the rounds, each compared within itself."""
    pairs = zip(costs[name], costs["nginx"], strict=True)
    return statistics.median(one / other for one, other in pairs)


def verdict(direction: str, costs: Costs) -> int:
    """Prints what the rounds say of one direction, and gives the exit code."""
    print(f"\n{direction:<20}{'ms per GB':>10}{'of nginx':>10}")
    for name, rounds in costs.items():
        print(f"{name:<20}{statistics.median(rounds):>10.0f}{ratio(costs, name):>10.2f}")
    difference = ratio(costs, "nginx again") - 1
    if abs(difference) > AGREEMENT:
        print(f"No verdict: two equal nginx differ by {difference:+.1%}. Is something else running here?")
        return 2
    return 0 if ratio(costs, "ratelimitd") <= BAR else 1


def run(directory: Path, origin: int, client_cpu: int, proxy_cpu: int) -> dict[str, Costs]:
    body = directory / "body"
    body.write_bytes(bytes(BODY_BYTES))
    transfers = {"download": ["-o", "/dev/null"], "upload": ["-T", str(body)]}
    costs: dict[str, Costs] = {direction: {name: [] for name in NAMES} for direction in transfers}
    with running(directory, origin) as all_proxies:
        proxies = [proxy for proxy in all_proxies if proxy.name in NAMES]
        for proxy in proxies:
            pin(proxy.pids(), proxy_cpu)
        for number in range(ROUNDS):
            for proxy in proxies[number % len(proxies) :] + proxies[: number % len(proxies)]:
                for direction, transfer in transfers.items():
                    costs[direction][proxy.name].append(measure(proxy, client_cpu, transfer))
    return costs


def main() -> int:
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        print("Two CPUs are needed: one for the proxies, one for curl and the origin.", file=sys.stderr)
        return 2
    started = time.monotonic()
    port = free_port()
    program = [sys.executable, str(Path(__file__).with_name("bulk_origin.py")), str(port)]
    with tempfile.TemporaryDirectory(prefix="ratelimitd-bench-") as name:
        with Process("origin", program, Path(name)) as origin:
            origin.wait_for_port(port)
            pin([origin.pid], cpus[0])
            costs = run(Path(name), port, cpus[0], cpus[1])
    codes = [verdict(direction, of_direction) for direction, of_direction in costs.items()]
    print(f"\nThe bar is {BAR:.2f}; {time.monotonic() - started:.0f} s")
    return 1 if 1 in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
