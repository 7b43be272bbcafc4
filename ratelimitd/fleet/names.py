"""What the keys in Redis are called: the only names there are, all with the operator's prefix, all expiring.

A key of a limit is `PREFIX{limit:window:hash}`: the window is part of a limit's identity, and of the value
that is counted by there is nothing but its keyed hash. The braces are Redis Cluster's: they say where a key
lies.
"""

from __future__ import annotations


def key_prefix(prefix: str, limit: str, window_us: int) -> bytes:
    """What the keys of one window of a limit begin with; 16 hexadecimal digits of the hash and `}` follow."""
    return f"{prefix}{{{limit}:{_window(window_us)}:".encode()


def nodes_key(prefix: str) -> bytes:
    """Which nodes are alive."""
    return f"{prefix}{{nodes}}".encode()


def secret_key(prefix: str) -> bytes:
    """The secret under which all nodes hash."""
    return f"{prefix}{{secret}}".encode()


def changes_key(prefix: str) -> bytes:
    """What operators and `ban` rules changed of single keys."""
    return f"{prefix}{{changes}}".encode()


def _window(window_us: int) -> str:
    for size_us, unit in ((1_000_000, "s"), (1_000, "ms")):
        if window_us % size_us == 0:
            return f"{window_us // size_us}{unit}"
    return f"{window_us}us"
