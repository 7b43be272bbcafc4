"""CPU per proxied request of ratelimitd beside nginx, HAProxy and a bare relay, in under two minutes.

nginx runs twice: as long as two equal programs differ by more than 3 %, the machine is too noisy for a
verdict and another set of rounds is run. Exit 0: ratelimitd costs at most BAR times nginx; 1: more; 2: no
verdict.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.costs import agreed_costs, is_quiet, measure, pin, print_costs, ratio, two_cpus
from benchmarks.proxies import Proxy, running
from tests.servers import Nginx

BAR: Final = 1.05
NAMES: Final = ("ratelimitd", "nginx", "nginx again", "HAProxy", "bare relay")
ROUNDS: Final = 4
ROUND_S: Final = 2


def main() -> int:
    client_cpu, proxy_cpu = two_cpus()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ratelimitd-bench-") as name:
        directory = Path(name)
        with Nginx(directory / "origin") as origin, running(directory, origin.port, NAMES) as proxies:
            pin(Proxy("origin", origin, origin.port).pids(), client_cpu)
            for proxy in proxies:
                pin(proxy.pids(), proxy_cpu)
                measure(proxy, client_cpu, 1)
            costs, difference = agreed_costs(
                proxies, lambda proxy: measure(proxy, client_cpu, ROUND_S), ROUNDS, ("nginx again", "nginx")
            )
    print_costs("CPU µs per request", costs, "nginx")
    quiet = is_quiet("nginx", difference)
    own = ratio(costs, "ratelimitd", "nginx")
    if quiet:
        print(f"ratelimitd costs {own:.2f} of nginx; the bar is {BAR:.2f}.")
    print(f"{time.monotonic() - started:.0f} s")
    return 2 if not quiet else 0 if own <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
