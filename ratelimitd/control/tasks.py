"""Ends tasks for certain: asyncio of Python 3.11 can forget that one was cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_CANCEL_S: Final = 0.2


async def cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels them until they have ended: where something ends in the very moment of a cancellation,
    `asyncio.wait_for` of Python 3.11 gives its result and forgets that it was cancelled."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_S)
