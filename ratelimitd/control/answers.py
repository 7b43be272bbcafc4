"""What the JSON pages of the admin server answer: one frozen type for each, for those who write and who read.

Instants are RFC 3339 in UTC. Values of headers, cookies and queries that serve as keys are never here: keys
are texts as `keytexts.shown` writes them. Fields are added, never renamed.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ratelimitd.control.shed_report import ShedReport


class Problem(msgspec.Struct, frozen=True):
    """Every answer that is not 200."""

    error: str


class WorkerAnswer(msgspec.Struct, frozen=True):
    worker: int
    pid: int
    state: str
    lag_ms: float


class WorkersAnswer(msgspec.Struct, frozen=True):
    wanted: int
    serving: int
    restarts: int
    each: tuple[WorkerAnswer, ...]


class ReloadsAnswer(msgspec.Struct, frozen=True):
    """`taken_at`: since when the configuration is in force; `refusal`: why the last one was not taken."""

    taken: int
    refused: int
    taken_at: str
    refusal: str


class TableAnswer(msgspec.Struct, frozen=True):
    size: int
    entries: int
    evictions: int


class ServerAnswer(msgspec.Struct, frozen=True):
    """One web server, in `state` since `since`, which is empty when that was always so. `error` is the last
    one that there was, also when it answers again."""

    upstream: str
    server: str
    state: Literal["up", "down"]
    since: str
    in_flight: int
    error: str
    error_at: str


class StoreAnswer(msgspec.Struct, frozen=True):
    """How limits are kept, in `state` since `since`: by this machine's memory alone; `shared`, by what the
    store grants; `away`, by what each limit says of that; `returning` while the store hears what it missed.
    `error` is why it was lost last, `nodes_assumed` what a limit is divided by while it is away."""

    state: Literal["memory", "shared", "away", "returning"]
    url: str
    since: str
    error: str
    nodes: int
    nodes_assumed: int
    exceptions: dict[str, int]


class StatusAnswer(msgspec.Struct, frozen=True):
    version: str
    pid: int
    state: str
    started_at: str
    uptime_s: int
    config: str
    listen: tuple[str, ...]
    admin: tuple[str, ...]
    workers: WorkersAnswer
    reloads: ReloadsAnswer
    table: TableAnswer
    requests: dict[str, int]
    connections: dict[str, int]
    upstreams: tuple[ServerAnswer, ...]
    shed_level: float
    shedding: ShedReport
    store: StoreAnswer
    journal: str


class LimitAnswer(msgspec.Struct, frozen=True):
    """`keys`: how many it counts now; `decisions` since the daemon started."""

    name: str
    per: tuple[str, ...]
    rates: tuple[str, ...]
    concurrent: int
    action: str
    keys: int
    decisions: dict[str, int]


class LimitsAnswer(msgspec.Struct, frozen=True):
    limits: tuple[LimitAnswer, ...]


class WindowAnswer(msgspec.Struct, frozen=True):
    """One rate of a limit for one key. `retry_after_s`: until there is room again, 0 when there is."""

    rate: str
    used: int
    left: int
    retry_after_s: float


class KeyAnswer(msgspec.Struct, frozen=True):
    """One key of one limit; `refused` counts its refusals of late, `banned_s` is what is left of its ban."""

    limit: str
    key: str
    windows: tuple[WindowAnswer, ...] = ()
    refused: int = 0
    banned_s: float = 0


class KeysAnswer(msgspec.Struct, frozen=True):
    """`others`: keys that are counted and neither refused nor banned, so that nobody keeps their texts."""

    keys: tuple[KeyAnswer, ...]
    others: int


class KeyChange(msgspec.Struct, frozen=True):
    """One key of one limit after a change; `was_known` is whether anything was counted for it."""

    limit: str
    key: str
    was_known: bool


class ChangedAnswer(msgspec.Struct, frozen=True):
    """What was done on this node, and what becomes of it on the others. `alone`: there are none, `store` is
    memory; `told`: they do it within 2 s; `waiting`: they hear of it when the store is back; `refused`: they
    never do, and `why`."""

    changed: Literal["reset", "ban", "unban"]
    keys: tuple[KeyChange, ...]
    fleet: Literal["alone", "told", "waiting", "refused"] = "alone"
    nodes: int = 1
    why: str = ""


class TopKey(msgspec.Struct, frozen=True):
    """`refused` since the daemon knows the key, `per_s` at present."""

    limit: str
    key: str
    refused: int
    per_s: float


class TopAnswer(msgspec.Struct, frozen=True):
    keys: tuple[TopKey, ...]


class Event(msgspec.Struct, frozen=True):
    """One line of the journal. No two events have the same time, and later ones have a later one."""

    time: str
    event: str
    message: str
    details: dict[str, Any] = {}


class EventsAnswer(msgspec.Struct, frozen=True):
    """`dropped`: events that could not be written to the journal's file, since the start."""

    events: tuple[Event, ...]
    dropped: int


class ReloadAnswer(msgspec.Struct, frozen=True):
    """`changes` of a reload that was taken, or why it was refused; `warnings` of the configuration read."""

    result: Literal["success", "refused"]
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str = ""


class DrainAnswer(msgspec.Struct, frozen=True):
    """`bound_s`: when what is under way is cut off."""

    state: str
    bound_s: float
