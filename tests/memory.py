"""What a process holds of memory for itself. Pss changes with whoever else has the same libraries loaded."""

from __future__ import annotations

from pathlib import Path


def own_kib(pid: int) -> int:
    """What it has written and shares with nobody, in KiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:"))
