"""Looks at the daemon's metrics all the time, so that a counter that goes back for a moment is seen."""

from __future__ import annotations

import asyncio

from tests.daemon import Daemon
from tests.metrics import Metrics


class Watch:
    """Scrapes the daemon's metrics all the time, and keeps what has gone back."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._last = Metrics({}, frozenset())
        self._task: asyncio.Task[None] | None = None
        self.gone_back: list[str] = []
        self.scrapes = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            metrics = await asyncio.to_thread(self._daemon.metrics)
            self.gone_back += metrics.gone_back(self._last)
            self._last = metrics
            self.scrapes += 1
            await asyncio.sleep(0.05)
