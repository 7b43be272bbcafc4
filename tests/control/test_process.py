"""A worker program starts with the supervisor's signals held back, and its end is noticed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from ratelimitd.control.process import SUPERVISOR_SIGNALS, WorkerProcess

HELD_BACK = (
    "import signal, sys; held = signal.pthread_sigmask(signal.SIG_BLOCK, []); "
    f"sys.exit(0 if held >= {{{', '.join(str(int(number)) for number in SUPERVISOR_SIGNALS)}}} else 3)"
)
NO_SECRETS = "import os, sys; sys.exit(3 if {'NOTIFY_SOCKET', 'LISTEN_FDS'} & set(os.environ) else 0)"
DESCRIPTORS = (
    "import os, sys; own = {0, 1, 2, int(sys.argv[2]), int(sys.argv[4])}; "
    "extra = [fd for fd in map(int, os.listdir('/proc/self/fd')) if fd not in own and fd < 900]; "
    "extra = [fd for fd in extra if os.path.exists(f'/proc/self/fd/{fd}')]; sys.exit(len(extra))"
)


async def end_of(program: str, *, killed: bool = False) -> int:
    """Run a program as a worker and give its return code."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    null = os.open(os.devnull, os.O_RDONLY)
    process = WorkerProcess(
        [sys.executable, "-c", program],
        null,
        asyncio.get_running_loop(),
        on_report=lambda _: None,
        on_exit=ended.set_result,
    )
    os.close(null)
    if killed:
        process.kill()
    return await asyncio.wait_for(ended, 10)


@pytest.mark.parametrize("program", [HELD_BACK, NO_SECRETS, DESCRIPTORS])
def test_what_a_worker_starts_with(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("LISTEN_FDS", "1")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert asyncio.run(end_of(program)) == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_the_end_is_noticed() -> None:
    assert asyncio.run(end_of("raise SystemExit(5)")) == 5
    assert asyncio.run(end_of("import time; time.sleep(60)", killed=True)) == -signal.SIGKILL
