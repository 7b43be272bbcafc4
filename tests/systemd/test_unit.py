"""The units as systemd reads them, without a systemd that runs: nothing to complain about, little exposed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.systemd import trees

UNITS = trees.ROOT / "systemd"
MOST_EXPOSED = 1.5


def analyze(*arguments: str) -> str:
    """All that it says; its exit status is 0 even for a line that it does not know."""
    done = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units beside each other, with a command that exists: `verify` looks for it."""
    for path in UNITS.iterdir():
        shutil.copy(path, tmp_path)
    service = tmp_path / "ratelimitd.service"
    command = str(Path(sys.executable).with_name("ratelimitd"))
    service.write_text(service.read_text().replace("/usr/local/bin/ratelimitd", command))
    return tmp_path


def test_systemd_has_nothing_to_complain_about(units: Path) -> None:
    assert analyze("verify", *map(str, sorted(units.iterdir()))) == ""


def test_what_systemd_does_not_know_would_be_seen(units: Path) -> None:
    service = units / "ratelimitd.service"
    service.write_text(service.read_text().replace("WatchdogSec=", "WatchDogSec="))
    assert "Unknown key 'WatchDogSec'" in analyze("verify", str(service))


def test_exposure() -> None:
    said = analyze("security", "--offline=true", "--no-pager", str(UNITS / "ratelimitd.service"))
    found = re.search(r"Overall exposure level for ratelimitd\.service: ([0-9.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= MOST_EXPOSED, said
