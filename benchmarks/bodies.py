"""CPU per gigabyte of large bodies, down and up, of a told length and chunked, beside nginx and HAProxy.

curl and the origin have one CPU, the proxies the other; one proxy works at a time, in turn, for several
rounds, each with a few bodies of 64 MiB over one connection. As in `quick`, one nginx runs twice: where two
equal programs differ by as much as ratelimitd does from BAR, there is no verdict. Exit 0: ratelimitd costs at
most BAR times nginx in each of these, be nginx as it comes or streaming; 1: more; 2: no verdict.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.bulk_origin import BODY_BYTES
from benchmarks.costs import Cpu, pin, two_cpus
from benchmarks.proxies import Proxy, running
from tests.servers import Process, free_port

BAR: Final = 1.00
AGREEMENT: Final = 0.05
BODIES: Final = 3
ROUNDS: Final = 6
STREAMING: Final = "nginx streaming"
NAMES: Final = ("ratelimitd", "nginx", STREAMING, f"{STREAMING} again", "HAProxy")

Costs = dict[str, list[float]]  # ms of CPU per GB, by the name of the proxy


def measure(proxy: Proxy, cpu: int, options: list[str], query: str, transfer: list[str]) -> float:
    """One run of curl through `proxy`, with `options` and, for each body, `transfer`."""
    pids = proxy.pids()
    before = Cpu.of(pids)
    command = ["taskset", "-c", str(cpu), "curl", "-sSf", "-H", "Expect:", *options]
    subprocess.run(
        [*command, *[*transfer, proxy.url + query] * BODIES], stdout=subprocess.DEVNULL, check=True
    )
    return (Cpu.of(pids).total_s - before.total_s) * 1e3 / (BODIES * BODY_BYTES / 1e9)


def ratio(costs: Costs, name: str, beside: str = "nginx") -> float:
    """How much `name` costs against another: the median over the rounds, each compared within itself."""
    pairs = zip(costs[name], costs[beside], strict=True)
    return statistics.median(one / other for one, other in pairs)


def verdict(direction: str, costs: Costs) -> int:
    """Prints what the rounds say of one direction, and gives the exit code."""
    print(f"\n{direction:<24}{'ms per GB':>10}{'of nginx':>10}{'of nginx streaming':>20}")
    for name, rounds in costs.items():
        of_both = f"{ratio(costs, name):>10.2f}{ratio(costs, name, STREAMING):>20.2f}"
        print(f"{name:<24}{statistics.median(rounds):>10.0f}{of_both}")
    difference = abs(ratio(costs, f"{STREAMING} again", STREAMING) - 1)
    own = max(ratio(costs, "ratelimitd", other) for other in ("nginx", STREAMING))
    if difference > AGREEMENT and difference >= abs(own - BAR):
        print(f"No verdict: two equal nginx differ by {difference:.1%}. Is something else running here?")
        return 2
    return 0 if own <= BAR else 1


def run(directory: Path, origin: int, client_cpu: int, proxy_cpu: int) -> dict[str, Costs]:
    body = directory / "body"
    body.write_bytes(bytes(BODY_BYTES))
    down, up = ["-o", "/dev/null"], ["-T", str(body)]
    transfers: dict[str, tuple[list[str], str, list[str]]] = {
        "download": ([], "", down),
        "download, chunked": ([], "&chunked", down),
        "upload": ([], "", up),
        "upload, chunked": (["-H", "Transfer-Encoding: chunked"], "", up),
    }
    costs: dict[str, Costs] = {direction: {name: [] for name in NAMES} for direction in transfers}
    with running(directory, origin, NAMES) as proxies:
        for proxy in proxies:
            pin(proxy.pids(), proxy_cpu)
        for number in range(ROUNDS):
            for proxy in proxies[number % len(proxies) :] + proxies[: number % len(proxies)]:
                for direction, transfer in transfers.items():
                    costs[direction][proxy.name].append(measure(proxy, client_cpu, *transfer))
    return costs


def main() -> int:
    client_cpu, proxy_cpu = two_cpus()
    started = time.monotonic()
    port = free_port()
    program = [sys.executable, str(Path(__file__).with_name("bulk_origin.py")), str(port)]
    with tempfile.TemporaryDirectory(prefix="ratelimitd-bench-") as name:
        with Process("origin", program, Path(name)) as origin:
            origin.wait_for_port(port)
            pin([origin.pid], client_cpu)
            costs = run(Path(name), port, client_cpu, proxy_cpu)
    codes = [verdict(direction, of_direction) for direction, of_direction in costs.items()]
    print(f"\nThe bar is {BAR:.2f}; {time.monotonic() - started:.0f} s")
    return 1 if 1 in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
