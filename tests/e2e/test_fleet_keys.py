"""Bans and resets hold for the whole fleet, whoever makes them: an operator on one node, or a `ban` rule.

A second for the heartbeat of the other nodes, and a little for the way: 2 s are promised. On a machine that
is full the tests grant more, and one that runs alone does not.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from ratelimitd.control.answers import KeyAnswer, KeysAnswer
from ratelimitd.tools import verbs
from ratelimitd.tools.admin_client import AdminClient, Place
from tests.e2e.fleet import Node, Rate, fleet_of
from tests.redis_servers import Redis
from tests.servers import Nginx, wait_until

PROMISED_S: Final = 2.0
GRANTED_S: Final = 5.0
WIDE: Final = Rate(10_000, 3600)  # asked again and again, until a ban is heard of
NARROW: Final = Rate(4, 3600, "/r", "narrow")
RULE: Final = Rate(4, 3600, "/b", "rule", ban="{after: 3, within: 1m, for: 10m}")
HERE_ONLY: Final = "on this node only for now: the store is away"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server


@dataclasses.dataclass
class Operator:
    """At one node."""

    node: Node

    @property
    def client(self) -> AdminClient:
        return AdminClient(Place(str(self.node.socket)))

    def does(self, verb: str, key: str, for_: str = "") -> list[str]:
        """What the verb says."""
        said: list[str] = []
        parameters = [*_named(key), *([("for", for_)] if for_ else [])]
        assert verbs.keys_change(self.client, said.append, verb, parameters, as_json=False) == 0
        return said

    def banned_s(self, key: str) -> float:
        return self._shows(key).banned_s

    def used(self, key: str) -> int:
        return self._shows(key).windows[0].used

    def _shows(self, key: str) -> KeyAnswer:
        (found,) = self.client.get("/api/keys/show", KeysAnswer, _named(key)).keys
        return found


def _named(key: str) -> list[tuple[str, str]]:
    """The key of the limit that holds for such paths."""
    (limit,) = (rate.name for rate in (WIDE, NARROW, RULE) if key.startswith(rate.prefix))
    return [("key", key), ("limit", limit)]


def soon(nodes: Iterable[Node], path: str, status: int, within_s: float = GRANTED_S) -> None:
    """All of them answer so within that time from now."""
    all_do(nodes, lambda node: node.ask(path) == status, f"{status} for {path}", within_s)


def all_do(nodes: Iterable[Node], do: Callable[[Node], bool], what: str, within_s: float = GRANTED_S) -> None:
    until_s = time.monotonic() + within_s
    for node in nodes:
        wait_until(functools.partial(do, node), f"node {node.index}: {what}", until_s - time.monotonic())


def test_operators_ban_unban_and_reset_on_all_nodes(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    with fleet_of(tmp_path, nginx.url, redis.url, [WIDE, NARROW], nodes=3) as fleet:
        first, second, third = fleet.nodes
        assert Operator(first).does("ban", "/k1", "1h") == [
            "shared: /k1 is banned",
            "all 3 nodes within 2 seconds",
        ]
        assert first.ask("/k1") == 403
        soon(fleet.nodes, "/k1", 403)
        left_s = [Operator(node).banned_s("/k1") for node in fleet.nodes]
        assert max(left_s) - min(left_s) < 1, "it ends at one instant"
        Operator(second).does("unban", "/k1")
        soon(fleet.nodes, "/k1", 200)
        assert [node.ask("/r1") for node in (first, second, third, first, second)] == [200] * 4 + [429]
        assert Operator(third).does("reset", "/r1")[0] == "narrow: /r1 was reset"
        all_do(fleet.nodes, lambda node: Operator(node).used("/r1") == 0, "forgets it")
        assert [node.ask("/r1") for node in (second, first, third, first, second)] == [200] * 4 + [429]


def test_a_rule_bans_on_all_nodes_and_on_one_that_joins(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    with fleet_of(tmp_path, nginx.url, redis.url, [RULE], nodes=2) as fleet:
        first, second = fleet.nodes
        assert [first.ask("/b1") for _ in range(8)] == [200] * 4 + [429] * 3 + [403]
        all_do([second], lambda node: Operator(node).banned_s("/b1") > 590, "bans it too")
        assert second.ask("/b1") == 403
        second.daemon.stop()
        second.restart()
        all_do([second], lambda node: Operator(node).banned_s("/b1") > 500, "bans it after a restart")
        Operator(second).does("unban", "/b1")
        all_do([first], lambda node: Operator(node).banned_s("/b1") == 0, "lifts its ban")
        assert [node.ask("/b1") for node in fleet.nodes] == [429, 429]


def test_while_the_store_is_away(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    """It acts here at once, the operator reads where, and the others hear of it when the store is back, even
    when that has forgotten all."""
    with fleet_of(tmp_path, nginx.url, redis.url, [WIDE], nodes=2) as fleet:
        first, second = fleet.nodes
        Operator(second).does("ban", "/k0", "1h")
        soon([first], "/k0", 403)
        redis.kill()
        fleet.wait_store(up=False)
        banned, where = Operator(first).does("ban", "/k1", "1h")
        assert (banned, where.startswith(HERE_ONLY)) == ("shared: /k1 is banned", True)
        Operator(first).does("unban", "/k0")
        assert (first.ask("/k0"), first.ask("/k1")) == (200, 403)
        assert (second.ask("/k0"), second.ask("/k1")) == (403, 200)
        redis.start()
        fleet.wait_store(up=True)
        soon([second], "/k1", 403)
        soon([second], "/k0", 200)


@pytest.mark.slow
@pytest.mark.timing
def test_within_two_seconds(tmp_path: Path, nginx: Nginx, redis: Redis) -> None:
    with fleet_of(tmp_path, nginx.url, redis.url, [WIDE, RULE], nodes=3) as fleet:
        for number in range(5):
            Operator(fleet.nodes[number % 3]).does("ban", f"/k{number}", "1h")
            soon(fleet.nodes, f"/k{number}", 403, PROMISED_S)
            Operator(fleet.nodes[number % 3]).does("unban", f"/k{number}")
            soon(fleet.nodes, f"/k{number}", 200, PROMISED_S)
        wait_until(lambda: fleet.nodes[0].ask("/b1") == 403, "the rule bans")
        all_do(fleet.nodes, lambda node: Operator(node).banned_s("/b1") > 590, "bans it too", PROMISED_S)
