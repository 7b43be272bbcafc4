"""The cost of a decision on the table, with few keys and with a million: `python benchmarks/decision.py`.

Uniformly random keys are the worst case for caches; real clients repeat. Small and large tables take turns,
and the best of the rounds counts, in CPU time: other work on the machine only adds. Promises, checked at the
end (exit 1): with a million keys a decision on one key in an open slot costs at most 0.4 µs more than with a
thousand, one on three keys that roll at most 0.8 µs more.
A figure without what was admitted and evicted beside it says nothing: refusals are cheap, evictions dear.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

from ratelimitd.limits.table import shape

HERE = Path(__file__).parent
KEYS = (1_000, 1_000_000)
FILL = 0.5  # up to here the table evicts nothing
CASES = ((1, False), (1, True), (3, False), (3, True))  # keys of a decision, whether they roll
ALLOWED_US = {(1, False): 0.4, (3, True): 0.8}
ROUNDS = 9
DECISIONS = 500_000


class Figures(ctypes.Structure):
    nanoseconds: int
    admitted: int
    evicted: int
    stale: int
    _fields_ = [(name, ctypes.c_uint64) for name in ("nanoseconds", "admitted", "evicted", "stale")]


class Result(NamedTuple):
    """Of all rounds: the best, the median; the fewest admitted, the most evicted."""

    us: float
    median_us: float
    admitted: int
    evicted: int


def build() -> ctypes.CDLL:
    """The loop of decision.c, compiled like the extension."""
    target = Path(tempfile.mkdtemp(prefix="ratelimitd-bench-")) / "decision.so"
    compiler = str(sysconfig.get_config_var("CC")).split()[0]
    source = str(HERE / "decision.c")
    command = [compiler, "-std=gnu11", "-O2", "-fPIC", "-shared", "-pthread", f"-I{HERE.parent}", source]
    subprocess.run([*command, "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    library.bench_open.restype = ctypes.c_void_p
    return library


class Bench:
    """One table in a memfd, as the daemon has it, with `keys` live keys."""

    def __init__(self, library: ctypes.CDLL, keys: int) -> None:
        self.keys = keys
        self._run = library.bench_run
        stripes, buckets_per_stripe, size = shape(int(keys / FILL))
        fd = os.memfd_create("bench")
        os.ftruncate(fd, 4096 + size)
        self._memory = mmap.mmap(fd, 0)
        os.close(fd)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._bench = library.bench_open(
            ctypes.c_void_p(start),
            ctypes.c_uint32(stripes),
            ctypes.c_uint32(buckets_per_stripe),
            ctypes.c_uint64(keys),
        )

    def run(self, n: int, *, rolling: bool) -> Figures:
        figures = Figures()
        decisions = ctypes.c_uint64(DECISIONS)
        self._run(ctypes.c_void_p(self._bench), n, decisions, int(rolling), ctypes.byref(figures))
        return figures


def measure(library: ctypes.CDLL) -> dict[tuple[int, int, bool], Result]:
    """Every case on both tables, round by round in turn."""
    benches = [Bench(library, keys) for keys in KEYS]
    runs: dict[tuple[int, int, bool], list[Figures]] = {}
    for _ in range(ROUNDS):
        for n, rolling in CASES:
            for bench in benches:
                runs.setdefault((bench.keys, n, rolling), []).append(bench.run(n, rolling=rolling))
    return {
        case: Result(
            min(f.nanoseconds for f in figures) / DECISIONS / 1_000,
            statistics.median(f.nanoseconds for f in figures) / DECISIONS / 1_000,
            min(f.admitted for f in figures),
            max(f.evicted for f in figures),
        )
        for case, figures in runs.items()
    }


def main() -> int:
    results = measure(build())
    few, many = KEYS
    failed = False
    print(f"{ROUNDS} rounds of {DECISIONS:,} decisions: best (median) µs each, fewest admitted, most evicted")
    for n, rolling in CASES:
        what = f"{n} key{'s' if n > 1 else ''}, {'rolling' if rolling else 'slot open'}"
        for keys in KEYS:
            best, median, admitted, evicted = results[keys, n, rolling]
            print(f"{what:20} {keys:>9,} keys  {best:6.3f} ({median:.3f}) µs", end="  ")
            print(f"admitted {admitted:>9,}  evicted {evicted:,}")
            failed |= admitted != DECISIONS or evicted != 0
        few_us, many_us = results[few, n, rolling].us, results[many, n, rolling].us
        more, ratio = many_us - few_us, many_us / few_us
        allowed = ALLOWED_US.get((n, rolling))
        verdict = (
            "" if allowed is None else f", allowed {allowed} µs: {'good' if more <= allowed else 'TOO MUCH'}"
        )
        failed |= allowed is not None and more > allowed
        print(f"{what:20} difference {more:6.3f} µs, ratio {ratio:.1f}{verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
