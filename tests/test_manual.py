"""What the manual quotes is what the program says: lines of its log, and names of its metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = {name: (ROOT / name).read_text() for name in ("README.md", "docs/fleet.md")}
_JOINT: Final = re.compile(r'"\s*f?"')  # of a text that goes on in the next line
SOURCE: Final = _JOINT.sub("", "".join(path.read_text() for path in sorted(ROOT.glob("ratelimitd/**/*.py"))))
LINES: Final = re.findall(
    r"^\| `([^`]+)` \| [A-Z]", PAGES["docs/fleet.md"].partition("## At 3 a.m.")[2], re.MULTILINE
)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_log_is_said_so(line: str) -> None:
    """Between what differs each time, its words stand in the program."""
    pieces = [piece.strip(" :;") for piece in re.split(r"WHY|URL|…|\d[\d.]*|^the store", line)]
    assert [piece for piece in pieces if piece not in SOURCE] == []


def test_lines_of_the_log_were_found() -> None:
    assert len(LINES) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_a_metric_has_this_name(page: str) -> None:
    names = set(re.findall(r"\bratelimitd_[a-z_]+[a-z]\b", PAGES[page]))
    assert names
    bases = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    assert {name for name in bases if name not in SOURCE} == set()
