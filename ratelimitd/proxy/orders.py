"""What supervisor and worker say to each other: orders go down, reports come up.

A worker's life: it is started, takes `Start`, answers `Ready`, serves, takes `Drain`, answers `Drained` and
ends. A reload is `Compile`, answered by `Compiled` or `Failed` (nothing changes), then `Swap`, answered by
`Swapped`. `Stop` ends a worker at once, and so does the end of the channel, but for requests under way.
"""

from __future__ import annotations

import msgspec

from ratelimitd.fleet.topology_values import Credentials, Topology


class Start(msgspec.Struct, frozen=True, tag=True):
    """Serve. One listening socket for each of `listeners` (its `bind`) comes along, in the same order.
    `store` is where it was reached last."""

    config: bytes  # msgpack of config.model.Config
    page: int
    listeners: tuple[str, ...]
    generation: int = 0
    store: Store | None = None


class Compile(msgspec.Struct, frozen=True, tag=True):
    """Prepare this configuration beside the one in force."""

    config: bytes
    generation: int


class Swap(msgspec.Struct, frozen=True, tag=True):
    """Decide by the prepared configuration from now on. `listeners` are all on which connections are accepted
    from now on, with a socket each as in `Start`; None: those that there were."""

    generation: int
    listeners: tuple[str, ...] | None = None


class Addresses(msgspec.Struct, frozen=True, tag=True):
    """Where the web servers that are given by name are now: each name with all of its addresses."""

    names: tuple[tuple[str, tuple[str, ...]], ...]


class Store(msgspec.Struct, frozen=True, tag=True):
    """The store was reached there: connect to what is not connected, and ask it from now on."""

    topology: Topology
    credentials: Credentials


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Accept nothing more, finish what is under way, then end."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End at once."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Connections are accepted on all sockets."""


class Compiled(msgspec.Struct, frozen=True, tag=True):
    generation: int


class Swapped(msgspec.Struct, frozen=True, tag=True):
    generation: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """An order could not be carried out; `message` is for the operator."""

    message: str
    generation: int


class Drained(msgspec.Struct, frozen=True, tag=True):
    """Nothing is under way any more; the worker ends."""


class Refusals(msgspec.Struct, frozen=True, tag=True):
    """Whom this worker refused since it last said so: limit, material of the key without id, how often."""

    keys: tuple[tuple[str, bytes, int], ...]


class Banned(msgspec.Struct, frozen=True, tag=True):
    """Keys that a `ban` rule has banned: hash, id of the limit's window, until when (us of BOOTTIME)."""

    keys: tuple[tuple[int, int, int], ...]


class StoreLost(msgspec.Struct, frozen=True, tag=True):
    """The store does not answer this worker, or not in time: its limits are kept without it."""

    why: str


class Unreached(msgspec.Struct, frozen=True, tag=True):
    """Where no connection could be opened since this worker last said so: upstream, server, why."""

    servers: tuple[tuple[str, str, str], ...]


Order = Start | Compile | Swap | Addresses | Store | Drain | Stop
Report = Ready | Compiled | Swapped | Failed | Drained | Refusals | Banned | StoreLost | Unreached
Message = Order | Report
