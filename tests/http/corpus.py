"""The corpus of requests, one file for each: invalid ones with one mistake, named after it, valid ones, and
several on one connection; and of answers.

invalid.txt, valid.txt, pipelined.txt and answers.txt in tests/corpora/http say what becomes of each, and why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ratelimitd.http.body import ChunkedReader

CORPUS: Final = Path(__file__).parent.parent / "corpora" / "http"


@dataclasses.dataclass(frozen=True)
class Invalid:
    """A request that gets `status`; 0: none, since it never becomes whole. `place` is where that shows."""

    name: str
    status: int
    place: str  # head, request, body or cut
    data: bytes


@dataclasses.dataclass(frozen=True)
class Valid:
    name: str
    method: bytes
    content_length: int | None
    chunked: bool
    keep_alive: bool
    data: bytes

    @property
    def target(self) -> bytes:
        return self.data.lstrip(b"\r\n").split(b" ", 2)[1]

    @property
    def head(self) -> bytes:
        """Without the empty lines that may come before it, and without the body."""
        return self.data.lstrip(b"\r\n").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    @property
    def body(self) -> bytes:
        return self.data.lstrip(b"\r\n").partition(b"\r\n\r\n")[2]

    @property
    def content(self) -> bytes:
        return ChunkedReader().read(self.body)[1] if self.chunked else self.body


@dataclasses.dataclass(frozen=True)
class Pipelined:
    """What a client sends at once, and the statuses of the answers."""

    name: str
    statuses: tuple[int, ...]
    data: bytes


@dataclasses.dataclass(frozen=True)
class Answered:
    """What a web server answers to a GET, and what becomes of it: pass, 502, cut or broken."""

    name: str
    verdict: str
    data: bytes


def _lines(kind: str, columns: int) -> Iterator[list[str]]:
    for line in (CORPUS / f"{kind}.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            yield line.split(" ", columns - 1)


def _data(kind: str, name: str) -> bytes:
    return (CORPUS / kind / f"{name}.http").read_bytes()


def invalid() -> list[Invalid]:
    return [
        Invalid(name, 0 if status == "-" else int(status), place, _data("invalid", name))
        for name, status, place, _ in _lines("invalid", 4)
    ]


def valid() -> list[Valid]:
    return [
        Valid(
            name,
            method.encode(),
            int(length) if length.isdigit() else None,
            length == "chunked",
            persistence == "keep",
            _data("valid", name),
        )
        for name, method, length, persistence in _lines("valid", 4)
    ]


def pipelined() -> list[Pipelined]:
    return [
        Pipelined(name, tuple(map(int, statuses.split(","))), _data("pipelined", name))
        for name, statuses, _ in _lines("pipelined", 3)
    ]


def answers() -> list[Answered]:
    return [Answered(name, verdict, _data("answers", name)) for name, verdict, _ in _lines("answers", 3)]


def found() -> list[Path]:
    """What `make fuzz` has found, until it is understood and gets its name in one of the others."""
    return sorted((CORPUS / "found").glob("*.http"))


def files(kind: str) -> set[str]:
    return {path.stem for path in (CORPUS / kind).iterdir()}
