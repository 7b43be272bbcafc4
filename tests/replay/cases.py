"""What is replayed: our own corpus, and the cases of others in the folder that HTTP_CORPORA names.

A case of others that says `by-setting` is decided by the contract; tests/corpora/POLICY.md says for each
class of them what we do and why, and `CLASSES` is what of it the tests know.
"""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import json
import os
from pathlib import Path
from typing import Final

from tests.http import corpus


class Expect(enum.Enum):
    ACCEPT = "accept"
    REJECT = "reject"
    EITHER = "accept-or-reject"  # but one reading
    BY_SETTING = "by-setting"


@dataclasses.dataclass(frozen=True)
class Case:
    """The bytes of one client. `statuses` are those of all answers, where they are known. `ends`: nothing
    behind it may be read as a request."""

    name: str
    expect: Expect
    data: bytes
    statuses: tuple[int, ...] = ()
    ends: bool = False


@dataclasses.dataclass(frozen=True)
class Class:
    """Cases of others that are alike, under a heading of POLICY.md. `names` are patterns of their ids."""

    heading: str
    expect: Expect
    names: tuple[str, ...]


CLASSES: Final = (
    Class(
        "Sizes that others bound more narrowly",
        Expect.ACCEPT,
        (
            "gunicorn/invalid/006.http",
            "gunicorn/invalid/007.http",
            "gunicorn/invalid/008.http",
            "gunicorn/invalid/01[0127].http",
            "gunicorn/invalid/limit_header_default_01.http",
            "gunicorn/valid/024.http",
            "gunicorn/valid/026.http",
        ),
    ),
    Class("Bodies that end before their length", Expect.REJECT, ("gunicorn/valid/099.http",)),
)


def own() -> list[Case]:
    accepted = [
        Case(f"valid/{case.name}", Expect.ACCEPT, case.data, (200,), ends=not case.keep_alive)
        for case in corpus.valid()
    ]
    refused = [
        Case(
            f"invalid/{case.name}",
            Expect.REJECT,
            case.data,
            (case.status,) if case.status else (),
            ends=case.place != "cut",
        )
        for case in corpus.invalid()
    ]
    together = [
        Case(f"pipelined/{case.name}", Expect.ACCEPT, case.data, case.statuses) for case in corpus.pipelined()
    ]
    found = [Case(f"found/{path.stem}", Expect.EITHER, path.read_bytes()) for path in corpus.found()]
    return accepted + refused + together + found


def folder() -> Path | None:
    """Where the cases of others lie."""
    path = os.environ.get("HTTP_CORPORA")
    return Path(path) if path else None


def foreign(path: Path) -> list[Case]:
    cases = []
    for file in sorted(path.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            expect = decided(row["id"], Expect(row["expect"]))
            cases.append(Case(row["id"], expect, bytes.fromhex(row["hex"])))
    return cases


def decided(name: str, said: Expect) -> Expect:
    """What the contract makes of a case of one of our classes, else what is said of it; where that depends on
    a setting, one reading is enough."""
    found = {kind.expect for kind in CLASSES if any(fnmatch.fnmatch(name, pattern) for pattern in kind.names)}
    assert len(found) < 2, name
    return found.pop() if found else Expect.EITHER if said is Expect.BY_SETTING else said
