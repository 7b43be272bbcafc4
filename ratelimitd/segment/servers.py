"""How one web server does, for those who watch and those who check: the words of `server_state.h` in Python.

Health checks write `down` here; everything else is written by workers, and only read. Eight words, each whole
whenever it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ratelimitd.segment import layout

if TYPE_CHECKING:
    import mmap

_DOWN: Final = 0
_FAILURES: Final = 1
_EJECTED_UNTIL_US: Final = 2
_EJECTIONS: Final = 3
_BACK_US: Final = 5


class ServerWords:
    """The record at `offset`. `words` are unsigned 64-bit words."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self.words: Final = memoryview(memory)[offset : offset + layout.SERVER_SIZE].cast("Q")

    @property
    def is_down(self) -> bool:
        """Whether its health checks say so."""
        return bool(self.words[_DOWN])

    def fell(self) -> None:
        """By its health checks it is down: no worker asks it any more."""
        self.words[_DOWN] = 1

    def rose(self, now_us: int) -> None:
        """It is up again. What it was ejected for is over, too."""
        self.words[_FAILURES] = self.words[_EJECTIONS] = self.words[_EJECTED_UNTIL_US] = 0
        self.words[_BACK_US] = now_us
        self.words[_DOWN] = 0

    def forget(self) -> None:
        """Up, since nobody checks it."""
        self.words[_DOWN] = 0

    @property
    def failures(self) -> int:
        """In a row."""
        return self.words[_FAILURES]

    @property
    def ejections(self) -> int:
        """In a row."""
        return self.words[_EJECTIONS]

    @property
    def ejected_until_us(self) -> int:
        """CLOCK_BOOTTIME; 0: it is not. After that instant one request tries it."""
        return self.words[_EJECTED_UNTIL_US]
