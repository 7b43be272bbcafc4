"""The program that reads a configuration for reloads.

`python -m ratelimitd.control.reread FILE` takes an order (the flags of the running daemon) from standard
input and writes a Reread to standard output, as often as it is asked; each is msgpack behind its length. A
copy of the program reads each time, so that nothing of the last file is left. What no configuration should
be able to do, ending that copy, ends the program with the same status.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import BinaryIO, Final

import msgspec

from ratelimitd.config import load
from ratelimitd.config.flags import Flags
from ratelimitd.errors import RatelimitdError

LENGTH: Final = 8


class Reread(msgspec.Struct, frozen=True):
    """What a file says now: a Config in msgpack and what is unwise in it, or what is wrong."""

    encoded: bytes = b""
    warnings: tuple[str, ...] = ()
    refusal: str = ""


def framed(message: bytes) -> bytes:
    """A message behind its length."""
    return len(message).to_bytes(LENGTH, "little") + message


def main(path: str) -> int:
    gc.freeze()  # the copies need not write to what is there already
    while order := _order(sys.stdin.buffer):
        pid = os.fork()
        if pid == 0:
            sys.stdout.buffer.write(framed(msgspec.msgpack.encode(_reread(path, order))))
            return 0
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != 0:
            return abs(status)
    return 0


def _order(stream: BinaryIO) -> bytes:
    """The next order; empty when the supervisor wants no more, or has ended."""
    return stream.read(int.from_bytes(stream.read(LENGTH), "little"))


def _reread(path: str, order: bytes) -> Reread:
    try:
        loaded = load.load_file(path, given=msgspec.msgpack.decode(order, type=Flags))
    except RatelimitdError as error:
        return Reread(refusal=" | ".join(str(error).splitlines()))
    warnings = tuple(
        f"{warning.file}:{warning.line}:{warning.column}: warning: {warning.message}"
        for warning in loaded.warnings
    )
    return Reread(msgspec.msgpack.encode(loaded.config), warnings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
