"""The verbs that talk to a running daemon: reload, status, drain, keys.

Each returns the exit code and writes for people, or with `as_json` the daemon's own answer for scripts.
0: done, 1: the daemon refuses, 3: there is none (NoDaemon, which the command line turns into it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ratelimitd.control import answers
from ratelimitd.tools.tables import columns, duration, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ratelimitd.tools.admin_client import AdminClient, Parameters

    Say = Callable[[str], None]


def reload(client: AdminClient, say: Say, *, as_json: bool) -> int:
    """Have the configuration read again, and tell what changed or why it was refused."""
    answer = client.post("/api/reload", answers.ReloadAnswer)
    taken = answer.result == "success"
    if as_json:
        say(_json(answer))
        return 0 if taken else 1
    if not taken:
        say(f"the reload was refused, the old configuration stays: {answer.reason}")
        return 1
    for warning in answer.warnings:
        say(warning)
    say("reloaded, and nothing changed" if not answer.changes else "reloaded")
    for change in answer.changes:
        say(f"  {change}")
    return 0


def drain(client: AdminClient, say: Say, *, as_json: bool) -> int:
    """Have the daemon finish what is under way and end."""
    answer = client.post("/api/drain", answers.DrainAnswer)
    bound = f"{answer.bound_s:g} s"
    say(_json(answer) if as_json else f"draining: no new connections, up to {bound} for what is under way")
    return 0


def status(client: AdminClient, say: Say, *, as_json: bool) -> int:
    """How the daemon is."""
    answer = client.get("/api/status", answers.StatusAnswer)
    if as_json:
        say(_json(answer))
    else:
        say(
            f"ratelimitd {answer.version} is {answer.state} for {duration(answer.uptime_s)}, pid {answer.pid}"
        )
        for line in columns(list(_status_rows(answer))):
            say(line)
    return 0


def _status_rows(answer: answers.StatusAnswer) -> Iterator[tuple[str, ...]]:
    reloads, workers = answer.reloads, answer.workers
    yield "configuration", answer.config or "the command line"
    yield "", f"taken {reloads.taken_at}; reloads: {reloads.taken} taken, {reloads.refused} refused"
    if reloads.refusal:
        yield "", f"the last reload was refused: {reloads.refusal}"
    yield "listening on", ", ".join(answer.listen) or "nothing"
    yield "workers", f"{workers.serving} of {workers.wanted} serve, {workers.restarts} replaced so far"
    yield "requests", _counts(answer.requests)
    yield "connections", _counts(answer.connections)
    for position, server in enumerate(answer.upstreams):
        yield "" if position else "web servers", _server(server)
    table = answer.table
    yield "table", f"{table.entries} of {table.size} entries in use, {table.evictions} evicted"
    yield "store", _store(answer.store)
    yield "shedding", answer.shedding.why
    yield "journal", answer.journal


def _store(store: answers.StoreAnswer) -> str:
    match store.state:
        case "memory":
            return "memory: limits hold for this machine"
        case "shared":
            return f"{store.url}: limits are shared by {store.nodes} nodes since {store.since}"
        case "away":
            return (
                f"{store.url} is away since {store.since}: {store.error}; limits that are kept locally "
                f"are divided by {store.nodes_assumed}"
            )
        case "returning":
            return f"{store.url} is back since {store.since}: it hears what was admitted meanwhile"


def _server(server: answers.ServerAnswer) -> str:
    line = f"{server.upstream}: {server.server} is {server.state}, {server.in_flight} in flight"
    if server.state == "down":
        return f"{line}; since {server.since}: {server.error}"
    return f"{line}; last error {server.error_at}: {server.error}" if server.error else line


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def keys_list(client: AdminClient, say: Say, *, as_json: bool) -> int:
    """The keys that are refused or banned."""
    answer = client.get("/api/keys", answers.KeysAnswer)
    if as_json:
        say(_json(answer))
        return 0
    if answer.keys:
        for line in columns([("LIMIT", "KEY", "REFUSED", "STATE"), *map(_key_row, answer.keys)]):
            say(line)
    else:
        say("no key was refused of late, and none is banned")
    if answer.others:
        say(f"{plural(answer.others, 'key')} more: counted, neither refused nor banned")
    return 0


def keys_show(client: AdminClient, say: Say, parameters: Parameters, *, as_json: bool) -> int:
    """A key, as each limit that it may belong to counts it."""
    answer = client.get("/api/keys/show", answers.KeysAnswer, parameters)
    if as_json:
        say(_json(answer))
        return 0
    for line in columns([("LIMIT", "KEY", "REFUSED", "STATE"), *map(_key_row, answer.keys)]):
        say(line)
    return 0


def _key_row(key: answers.KeyAnswer) -> tuple[str, ...]:
    state = [f"banned for {duration(key.banned_s)}"] if key.banned_s else []
    for window in key.windows:
        room = f", room in {duration(window.retry_after_s)}" if window.retry_after_s else ""
        state.append(f"{window.used} used of {window.rate}{room}")
    return key.limit, key.key, str(key.refused), "; ".join(state)


def keys_change(client: AdminClient, say: Say, verb: str, parameters: Parameters, *, as_json: bool) -> int:
    """`reset`, `ban` or `unban` a key."""
    answer = client.post(f"/api/keys/{verb}", answers.ChangedAnswer, parameters)
    if as_json:
        say(_json(answer))
        return 1 if answer.fleet == "refused" else 0
    done = {"reset": "was reset", "ban": "is banned", "unban": "is not banned any more"}[verb]
    for key in answer.keys:
        unknown = "" if key.was_known or verb == "ban" else " (nothing was counted for it)"
        say(f"{key.limit}: {key.key} {done}{unknown}")
    if answer.fleet != "alone":
        say(_spread(answer))
    return 1 if answer.fleet == "refused" else 0


def _spread(answer: answers.ChangedAnswer) -> str:
    """What the other nodes do."""
    match answer.fleet:
        case "waiting":
            return (
                "on this node only for now: the store is away, and the others hear of it when it is back; "
                "until then repeat it on each of them"
            )
        case "refused":
            return f"on this node only: {answer.why}; repeat it on each node"
        case _ if answer.nodes == 1:
            return "this node is the only one that shares the store now; one that joins hears of it"
        case _:
            return f"all {answer.nodes} nodes within 2 seconds"


def _json(answer: msgspec.Struct) -> str:
    return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
