"""A worker as the supervisor knows it, and its life: `NEXT` is the one table of it, `move` changes it."""

from __future__ import annotations

import dataclasses
import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ratelimitd.segment.memory import boottime_us

if TYPE_CHECKING:
    from ratelimitd.control.process import WorkerProcess
    from ratelimitd.segment.pages import Page


class Life(enum.Enum):
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    KILLED = "killed"
    ENDED = "ended"


NEXT: Final = MappingProxyType(
    {
        Life.STARTING: {Life.SERVING, Life.DRAINING, Life.KILLED, Life.ENDED},
        Life.SERVING: {Life.DRAINING, Life.KILLED, Life.ENDED},
        Life.DRAINING: {Life.KILLED, Life.ENDED},
        Life.KILLED: {Life.ENDED},
        Life.ENDED: set(),
    }
)


@dataclasses.dataclass
class Worker:
    """A worker of the set: `index` stays with its replacement, the rest is the process's own."""

    index: int
    process: WorkerProcess
    page_index: int
    page: Page
    since_us: int  # when it entered its state
    life: Life = Life.STARTING
    # Generations of the configuration: the last that it was asked to prepare and to put in force, and that
    # it has said to have prepared and put in force.
    asked_compile: int = 0
    asked_swap: int = 0
    compiled: int = 0
    swapped: int = 0
    listening: int = 0  # the version of the listeners that it has

    def move(self, life: Life) -> None:
        assert life in NEXT[self.life], f"worker {self.index}: {self.life} -> {life}"
        self.life = life
        self.since_us = boottime_us()
