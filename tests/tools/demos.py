"""A demo as a newcomer meets it: what it says once it is ready, and its commands typed into a shell."""

from __future__ import annotations

import subprocess

from tests.servers import Process, wait_until


def text(demo: Process) -> str:
    """What it prints once it is ready."""

    def printed() -> str | None:
        assert demo.exit_code is None, demo.stderr
        return demo.stdout if "Ctrl-C" in demo.stdout else None

    return wait_until(printed, "the demo says what to try", 60)


def shell(command: str) -> str:
    """What one of its lines prints."""
    command_line = ["sh", "-c", command]
    return subprocess.run(command_line, capture_output=True, text=True, timeout=60, check=True).stdout
