"""A Lua script as commands for the store: by its digest, and whole for a server that does not know it.

Only commands are made here; who sends them goes on to `whole` after NOSCRIPT, and repeats nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
from importlib import resources
from typing import Any, Self, cast

import hiredis


def packed(words: tuple[bytes, ...]) -> bytes:
    """A command as it is sent."""
    command: bytes = hiredis.pack_command(cast("Any", words))
    return command


@dataclasses.dataclass(frozen=True)
class Script:
    """One script, of one key."""

    text: bytes
    digest: bytes

    @classmethod
    def load(cls, name: str) -> Self:
        """The script in a file of this package."""
        text = resources.files(__package__).joinpath(name).read_bytes()
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode("ascii"))

    def call(self, key: bytes, *arguments: bytes) -> bytes:
        """The command that runs it."""
        return packed((b"EVALSHA", self.digest, b"1", key, *arguments))

    def whole(self, key: bytes, *arguments: bytes) -> bytes:
        """The same for a server that was not given the script yet."""
        return packed((b"EVAL", self.text, b"1", key, *arguments))
