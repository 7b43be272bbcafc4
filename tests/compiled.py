"""Programs in C that tests and benchmarks run, compiled when they are first asked for."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path


@functools.cache
def compiled(source: Path) -> Path:
    """The program made of one file."""
    target = Path(tempfile.mkdtemp(prefix="ratelimitd-test-")) / source.stem
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(source)], check=True)
    return target
