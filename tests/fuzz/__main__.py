"""`python -m tests.fuzz 1h [SEED]`, which is `make fuzz TIME=1h SEED=`: see rounds.py.

Prints a line every few seconds and each find as it is made; ends with 1 when there was one.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from ratelimitd.config.units import duration_ms
from tests.fuzz import rounds

_EVERY_S: Final = 10.0


class Teller:
    """Prints what is new, and stores each find."""

    def __init__(self) -> None:
        self._told = 0
        self._next = self._start = time.monotonic()

    def __call__(self, progress: rounds.Progress) -> None:
        for find in progress.finds[self._told :]:
            where = rounds.store(find) if find.data else "no single stream"
            print(f"FOUND {find.what}\n  kept as {where}", flush=True)
        self._told = len(progress.finds)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY_S
            print(
                f"{now - self._start:8.0f} s  {progress.sent} streams, {progress.passed} requests passed on, "
                f"{len(progress.finds)} finds; at seed {progress.seed + progress.rounds}",
                flush=True,
            )


def main(seconds: float, seed: int) -> int:
    print(f"seed {seed}: the same streams again with SEED={seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        done = rounds.run(Path(directory), seed, seconds, Teller())
    print(f"{done.rounds} rounds, {done.sent} streams, {done.passed} passed on, {len(done.finds)} finds")
    return 1 if done.finds else 0


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument]
    sys.exit(
        main(duration_ms(given[0]) / 1000, int(given[1]) if len(given) > 1 else secrets.randbelow(1 << 40))
    )
