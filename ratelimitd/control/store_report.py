"""How the store does, for operators: values of one moment, and the events that led there, each said once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from ratelimitd.control.journal import Note

logger = logging.getLogger(__name__)

# The bounded cases in which a limit may be passed. Evictions are counted by the table.
REASONS: Final = ("store_lost", "data_lost", "cut_off", "node_died", "clock_step", "secret")


class StoreReport(msgspec.Struct, frozen=True):
    """`state`: `memory` without a store; `returning` while it hears what was admitted without it and the
    other nodes come back. `since_s` is since 1970, `error` is what the last
    attempt to reach it met, or why it was lost last."""

    state: Literal["memory", "shared", "away", "returning"]
    url: str = ""
    since_s: float = 0
    error: str = ""
    nodes: int = 1
    nodes_assumed: int = 1
    exceptions: dict[str, int] = {}

    @property
    def is_up(self) -> bool:
        return self.state != "away"


def no_store() -> StoreReport:
    return StoreReport("memory")


class Exceptions:
    """Counts the cases in which a limit may have been passed, and tells each in one line and one event."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self.counts: Final = dict.fromkeys(REASONS, 0)

    def count(self, reason: str, message: str, event: str = "limit_exception") -> None:
        self.counts[reason] += 1
        logger.warning("%s", message)
        self._note(event, message, reason=reason)
