"""How the store does, for operators: values of one moment, and the texts of the events that led there."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

# The bounded cases in which a limit may be passed. Evictions are counted by the table.
REASONS: Final = ("store_lost", "data_lost", "cut_off", "node_died", "clock_step", "secret")

_PASSWORD: Final = re.compile(r"(?<=://)[^/@]*@")


class StoreReport(msgspec.Struct, frozen=True):
    """`state`: `memory` when there is no store; `returning` while what was admitted without it is told to it,
    and all nodes come back. `since_s` is since 1970, `error` why it was lost last."""

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


def shown_url(url: str) -> str:
    """A URL without the name and password that may be in it."""
    return _PASSWORD.sub("", url)


def no_store() -> StoreReport:
    return StoreReport("memory")
