"""The window against an exact log of what was admitted, for any time pattern Hypothesis can think of.

Never more: no closed window of the limit's length holds more than the limit, by the instants that were
decided. Never less: a refusal means that the last 32 slots and the request together are over the limit (but
for the rounding of closed slots to units), so no more than one slot's worth of time is ever lost.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratelimitd.limits.table import Decision, Request
from ratelimitd.limits.window import LARGEST_LIMIT, SLOTS, shift_for, slot_us
from tests.limits.model import worst
from tests.limits.tables import TableMemory

START = 50_000_000
HOUR = 3_600_000_000

windows = st.one_of(st.integers(31, 2_000), st.integers(1_000, 86_400_000_000))
limits = st.one_of(st.integers(1, 10), st.integers(1, 1_000), st.integers(1, 1_000_000), st.just(65_536))

# Each step: how time moves ("edge" is the next slot's, "window" a whole window further), by how much beside
# that, how far behind the decision's own clock is, how many requests, of which share of the limit each.
steps = st.lists(
    st.tuples(
        st.sampled_from(("stay", "stay", "edge", "edge", "window", "silence")),
        st.integers(-1, 1) | st.integers(0, 5_000),
        st.just(0) | st.just(0) | st.integers(0, 900_000),
        st.integers(1, 6),
        st.sampled_from((0, 0, 0, 2, 3, 10)),
    ),
    min_size=1,
    max_size=60,
)


class Client:
    """Sends requests for one key and keeps the exact log."""

    def __init__(self, window_us: int, limit: int) -> None:
        self.table = TableMemory().table
        self.window_us, self.limit = window_us, limit
        self.request = Request(7, slot_us(window_us), limit, 1, shift_for(limit))
        self.now_us = START
        self.log: list[tuple[int, int]] = []

    def move(self, kind: str, beside_us: int) -> None:
        slot = self.request.slot_us
        by = {"stay": 0, "edge": slot - self.now_us % slot, "window": self.window_us, "silence": HOUR}[kind]
        self.now_us += max(0, by + beside_us)

    def send(self, behind_us: int = 0, share: int = 0) -> Decision:
        cost = max(1, self.limit // share) if share else 1
        decision = self.table.decide([self.request._replace(cost=cost)], self.now_us - behind_us)
        if decision.verdict == "admitted":
            self.log.append((decision.at_us, cost))
        return decision

    def last_slots(self, at_us: int) -> int:
        """Units that the log has in the slot of `at_us` and the 31 before it."""
        first = (at_us // self.request.slot_us - SLOTS) * self.request.slot_us
        return sum(cost for instant, cost in self.log if first <= instant <= at_us)


@settings(max_examples=400, deadline=None)
@given(windows, limits, steps)
@example(1_000, 2, [("edge", -1, 0, 6, 0), ("edge", 0, 0, 6, 0)] * 4)
@example(100_000, 2, [("stay", 0, 0, 2, 0), ("stay", 50_000, 110_000, 1, 0), ("window", -1, 60_000, 3, 0)])
def test_never_more_than_the_limit_and_never_less_than_the_slots_promise(
    window_us: int, limit: int, pattern: list[tuple[str, int, int, int, int]]
) -> None:
    client = Client(window_us, limit)
    rounding = SLOTS * ((1 << client.request.shift) - 1)
    if limit == 65_536:  # a slot that is full to the last unit needs the next coarser units
        rounding = SLOTS
    for kind, beside_us, behind_us, burst, share in pattern:
        client.move(kind, beside_us)
        for _ in range(burst):
            decision = client.send(behind_us, share)
            if decision.verdict == "refused":
                cost = max(1, limit // share) if share else 1
                assert client.last_slots(decision.at_us) + cost + rounding > limit
    assert worst(client.log, window_us) <= limit


@settings(max_examples=300, deadline=None)
@given(windows, limits, steps)
def test_a_refused_request_fits_at_its_retry_instant_and_not_before(
    window_us: int, limit: int, pattern: list[tuple[str, int, int, int, int]]
) -> None:
    client = Client(window_us, limit)
    for kind, beside_us, _, burst, share in pattern:
        client.move(kind, beside_us)
        for _ in range(burst):
            decision = client.send(0, share)
            if decision.verdict == "refused":
                client.now_us = max(client.now_us, decision.retry_at_us - 1)
                assert client.send(0, share).verdict == "refused"
                client.now_us = decision.retry_at_us
                assert client.send(0, share).verdict == "admitted"
    assert worst(client.log, window_us) <= limit


@settings(max_examples=50, deadline=None)
@given(st.integers(1_000, 10_000_000), st.integers(1, 40), st.integers(0, 1_000_000))
def test_constant_overload_gets_what_31_slots_of_32_hold(window_us: int, limit: int, start_us: int) -> None:
    """After the first burst the client is always there: it gets its limit once in each 32 slots."""
    client = Client(window_us, limit)
    client.now_us += start_us
    for _ in range(20 * 32):
        while client.send().verdict == "admitted":
            pass
        client.move("edge", 0)
    assert len(client.log) == 20 * limit


@given(st.integers(1, 10**13))
def test_31_slots_cover_the_window_with_less_than_a_microsecond_to_spare_each(window_us: int) -> None:
    assert 0 <= SLOTS * slot_us(window_us) - window_us < SLOTS


@given(st.integers(1, LARGEST_LIMIT))
def test_units_are_the_finest_of_which_65536_hold_the_limit(limit: int) -> None:
    shift = shift_for(limit)
    assert limit <= 65_536 << shift
    assert shift == 0 or limit > 65_536 << (shift - 1)
