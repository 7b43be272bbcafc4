"""Settings that name files, directories and sockets.

A relative path starts at the directory of the file in which it is written. Files that are read must be
readable now; whether a socket can be bound or a log be written is found out at start.
"""

from __future__ import annotations

import dataclasses
import os
from collections import abc as collections
from typing import Any

from ratelimitd.config import addresses, kinds
from ratelimitd.config.document import Node, Place, quote, quote_path, read_bytes
from ratelimitd.config.reader import Context, Kind, resolve_path
from ratelimitd.errors import ConfigError

LARGEST_CONTENT = 1 << 20


@dataclasses.dataclass(frozen=True)
class PathKind(Kind):
    """A path, made absolute; `take` turns it into the value or raises ConfigError at the place."""

    noun: str
    take: collections.Callable[[str, Place], Any]
    words: tuple[str, ...] = ()

    def read(self, node: Node, context: Context) -> Any:
        text = kinds.text(self.noun).read(node, context)
        if text in self.words:
            return text
        if self.words and "/" not in text:
            words = " nor ".join(self.words)
            raise context.error(
                node.place,
                f"{quote(text)} is neither {words}, nor a path such as /var/log/ratelimitd/access.log",
            )
        try:
            return self.take(resolve_path(text, node.place), node.place)
        except ConfigError as error:
            raise context.error(node.place, error.problems[0].message) from None

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1}


def _readable(path: str, place: Place) -> str:
    _content(path, place)
    return path


def _unseen(path: str, _: Place) -> str:
    return path


def _content(path: str, place: Place) -> bytes:
    return read_bytes(path, LARGEST_CONTENT, mention=place)


def _socket(path: str, place: Place) -> str:
    if len(os.fsencode(path)) > addresses.LONGEST_UNIX_PATH:
        raise place.error(
            f"{quote_path(path)} is longer than the {addresses.LONGEST_UNIX_PATH} bytes of a socket's path"
        )
    return path


def _directory(path: str, place: Place) -> str:
    if not os.path.isdir(path):
        raise place.error(f"there is no directory {quote_path(path)}")
    return path


def readable() -> Kind:
    return PathKind("the path of a file", _readable)


def content() -> Kind:
    """The bytes of the file that is named."""
    return PathKind("the path of a file", _content)


def written() -> Kind:
    return PathKind("the path of a file", _unseen)


def destination() -> Kind:
    return PathKind("stdout, journald or the path of a file", _unseen, ("stdout", "journald"))


def socket() -> Kind:
    return PathKind("the path of a Unix socket", _socket)


def directory() -> Kind:
    return PathKind("the path of a directory", _directory)
