"""A fleet under steady load while something happens to its store, and what must hold whatever it was.

Nobody gets an error because of it, nobody waits for it, the metrics show it, one line says it and one that it
is over; what was admitted keeps within the limit, but for the window that straddles the loss.
"""

from __future__ import annotations

import time
from typing import Final

from tests.e2e.fleet import Fleet, Rate, assert_answers, assert_quick, assert_within, during, now_us
from tests.fleet_load import Answer
from tests.servers import wait_until

RATE: Final = Rate(40, 1)
PATHS: Final = 4
LOAD: Final = 400.0  # requests a second, more than twice what is admitted
BACK_WITHIN_S: Final = 2.0  # promised: 1 s; the other is for a machine on which everything waits
FALLBACK: Final = "ratelimitd_store_fallback_total"


class Trial:
    """The load runs from the start for `seconds`, and `judge` waits for its end."""

    def __init__(self, fleet: Fleet, rate: Rate = RATE, seconds: float = 6.0, load: float = LOAD) -> None:
        self.fleet, self.rate = fleet, rate
        self.lost_us = self.known_us = self.back_us = 0
        self.started_without = not any(node.is_up() for node in fleet.nodes)
        self._ends = time.monotonic() + seconds
        self._load = fleet.load(rate.paths(PATHS), rate=load, seconds=seconds)

    def pass_time(self, windows: float = 1.5) -> None:
        """Load goes on for a while."""
        time.sleep(self.rate.window_s * windows)

    def lost(self, since_us: int | None = None) -> None:
        """Returns when the last node knows that the store is away."""
        self.lost_us = since_us or now_us()
        self.fleet.wait_store(up=False, within_s=5)
        self.known_us = now_us()

    def back(self) -> None:
        """The store has just come back: returns when all nodes share again."""
        self.fleet.wait_store(up=True, within_s=BACK_WITHIN_S)
        self.back_us = now_us()
        assert time.monotonic() < self._ends, "the load went on all the time"

    def answers(self) -> list[Answer]:
        return self._load.answers()

    def judge(self, *, anew: bool = False) -> None:
        """After one outage that all nodes saw, from loss to return. `anew`: they had never met the store and
        hashed keys with secrets of their own, so what they had admitted is forgotten, and that is counted."""
        answers = self._load.answers()
        nodes = len(self.fleet.nodes)
        assert_answers(answers, 200, 429)
        assert_quick(answers, self.fleet.deadline_ms)
        self._judge_outage(during(answers, self.known_us, self.back_us))
        admitted = self.fleet.admitted()
        most, known_us = self.rate.most_while_lost(nodes), self.known_us
        if anew:
            most, known_us = 2 * self.rate.count, self.back_us
            assert sum(node.exceptions("secret") for node in self.fleet.nodes) >= 1
        assert_within(admitted, self.rate, most)
        assert_within(admitted, self.rate, max(self.rate.count, nodes), after_us=known_us)
        for node in self.fleet.nodes:
            assert self.started_without or node.exceptions("store_lost") == 1
            assert node.daemon.metrics().total(FALLBACK, limit=self.rate.name) > 0
            assert_said(self.fleet, node.index, 2)

    def _judge_outage(self, answers: list[Answer]) -> None:
        """While the store was away, about the shares were admitted."""
        seconds = (self.back_us - self.known_us) / 1e6
        shares = self.rate.share(len(self.fleet.nodes)) * len(self.fleet.nodes) * PATHS
        admitted = sum(answer.status == 200 for answer in answers)
        windows = seconds / self.rate.window_s - 1  # the first may have been used up before the loss
        assert admitted >= 0.7 * shares * windows, f"{admitted} in {seconds:.1f} s, {shares} a window"

    def judge_calm(self, *allowed: int, most: int | None = None, changes: int = 0) -> None:
        """After something that was no outage: the limit held as ever, and nothing was said."""
        answers = self._load.answers()
        assert_answers(answers, 200, 429, *allowed)
        assert_quick(answers, self.fleet.deadline_ms)
        assert_within(self.fleet.admitted(), self.rate, most or self.rate.count)
        for node in self.fleet.nodes:
            assert node.is_up()
            assert node.daemon.metrics().total(FALLBACK) == 0, "the store was there all the time"
            assert_said(self.fleet, node.index, changes)


def most_dials(fleet: Fleet, seconds: float) -> float:
    """One at a time per node, ten a second at first and fewer then, and one for each worker on return."""
    return len(fleet.nodes) * (10 * seconds + 2 + fleet.workers)


def assert_said(fleet: Fleet, index: int, changes: int) -> None:
    """One event and one line for each change of the store's state, and no more."""
    node = fleet.nodes[index]
    wait_until(lambda: len(node.events()) >= changes, f"{changes} events of node {index}: {node.events()}")
    events = [event["message"] for event in node.events()]
    assert len(events) == changes, events
    lines = node.lines()
    assert len(lines) == changes, lines
    exceptions = node.daemon.metrics().total("ratelimitd_limit_exceptions_total")
    assert len(node.exception_events()) >= exceptions, "each one is in the journal"
