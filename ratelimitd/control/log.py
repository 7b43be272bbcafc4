"""What the daemon says of itself: one line for each event, on standard error.

On a terminal or in a file each line has its time and level; under systemd the journal knows the time and
takes the level from a `<N>` in front of the line. No line has a traceback, and none breaks over lines.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def configure(stream: TextIO | None = None, environ: Mapping[str, str] | None = None) -> None:
    """Send the daemon's own lines to `stream`, standard error by default."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_OneLine(_goes_to_journal(stream, os.environ if environ is None else environ)))
    root = logging.getLogger("ratelimitd")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
    # A reader of our lines that has gone away must not take the daemon with it.
    logging.raiseExceptions = False


class _OneLine(logging.Formatter):
    def __init__(self, for_journal: bool) -> None:
        super().__init__("%(message)s" if for_journal else "%(asctime)s %(levelname)-7s %(message)s")
        self.default_msec_format = "%s.%03d"
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record).replace("\n", " | ")
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" if self._for_journal else line


def _goes_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether `stream` is the one that systemd connected to the journal (it gives device and inode)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
