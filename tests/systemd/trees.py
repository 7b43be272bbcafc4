"""What `make install` makes, in a directory of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PREFIX: Final = "/opt/ratelimitd"
UNIT: Final = "etc/systemd/system/ratelimitd.service"
EXAMPLE: Final = "etc/ratelimitd/ratelimitd.yaml"


def make(target: str, destination: Path, checkout: Path = ROOT) -> str:
    """`make TARGET` with everything under `destination`; what it said."""
    done = subprocess.run(
        [
            *("make", "--no-print-directory", target, f"DESTDIR={destination}"),
            *(f"PREFIX={PREFIX}", "UNITDIR=/etc/systemd/system"),
        ],
        cwd=checkout,
        env={name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(destination: Path) -> Path:
    return destination / PREFIX.removeprefix("/") / "lib/ratelimitd/bin/python"
