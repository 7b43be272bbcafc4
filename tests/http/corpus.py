"""The corpus of requests, one file for each: invalid ones with one mistake, named after it, and valid ones.

tests/corpora/http/invalid.txt and valid.txt say what becomes of each.
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
    """A request that gets `status`; `in_head`: the parser of heads alone refuses it."""

    name: str
    status: int
    in_head: bool
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


def _lines(kind: str, columns: int) -> Iterator[list[str]]:
    for line in (CORPUS / f"{kind}.txt").read_text().splitlines():
        if not line.startswith("#"):
            yield line.split(" ", columns - 1)


def _data(kind: str, name: str) -> bytes:
    return (CORPUS / kind / f"{name}.http").read_bytes()


def invalid() -> list[Invalid]:
    return [
        Invalid(name, int(status), place == "head", _data("invalid", name))
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


def files(kind: str) -> set[str]:
    return {path.stem for path in (CORPUS / kind).iterdir()}
