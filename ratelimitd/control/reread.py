"""The program that reads a configuration for one reload.

`python -m ratelimitd.control.reread FILE` takes the flags of the running daemon from standard input and
writes the configuration that both make to standard output, each in msgpack. Warnings, or what is wrong, go to
standard error as `check` would print them; the exit status is 1 then.
"""

from __future__ import annotations

import sys

import msgspec

from ratelimitd.config import load
from ratelimitd.config.flags import Flags
from ratelimitd.errors import RatelimitdError


def main(path: str) -> int:
    try:
        orders = sys.stdin.buffer.read()
        if not orders:
            return 0  # the supervisor ended without asking
        flags = msgspec.msgpack.decode(orders, type=Flags)
        loaded = load.load_file(path)
        config = load.override(loaded.config, flags)
    except RatelimitdError as error:
        print(error, file=sys.stderr)
        return 1
    for warning in loaded.warnings:
        print(f"{warning.file}:{warning.line}:{warning.column}: warning: {warning.message}", file=sys.stderr)
    sys.stdout.buffer.write(msgspec.msgpack.encode(config))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
