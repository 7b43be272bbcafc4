"""Lines for people and for the journal."""

import logging
import os
import re
from pathlib import Path

from ratelimitd.control import log


def written(tmp_path: Path, *, for_journal: bool) -> list[str]:
    path = tmp_path / "log"
    with path.open("w") as stream:
        status = os.fstat(stream.fileno())
        inode = status.st_ino if for_journal else status.st_ino + 1
        log.configure(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{inode}"})
        logging.getLogger("ratelimitd.test").warning("worker %d\nended", 3)
        logging.getLogger("ratelimitd.test").info("fine")
    return path.read_text().splitlines()


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    assert written(tmp_path, for_journal=True) == ["<4>worker 3 | ended", "<6>fine"]


def test_others_get_time_and_level(tmp_path: Path) -> None:
    first, second = written(tmp_path, for_journal=False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WARNING worker 3 \| ended", first)
    assert second.endswith(" INFO    fine")
