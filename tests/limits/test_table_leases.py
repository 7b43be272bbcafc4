"""Decisions by leases: what a request takes, what it must ask for, and what the store is told afterwards."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimitd.limits.table import Granted, Request, StoreView, Table, shape

SHARED, AWAY, BOTH = 0, 1, 2
LOCAL, OPEN, CLOSED = 0, 1, 2
NOTHING, LEASE, GRANT, FALLBACK = 0, 1, 2, 3
SLOT = 1_000
WINDOW = 32 * SLOT
START = 10_000_000_000
KEY = 0x1234_5678_9ABC_DEF0


def a_table(entries: int = 256) -> Table:
    cut = shape(entries)
    memory = mmap.mmap(-1, 4096 + cut.size)
    table = Table(memory, 4096, cut.stripes, cut.buckets_per_stripe)
    table.initialise()
    return table


@pytest.fixture
def table() -> Table:
    return a_table()


def request(key: int = KEY, limit: int = 10, cost: int = 1, **more: int) -> Request:
    return Request(key, SLOT, limit, cost, observe=bool(more.pop("observe", 0)), **more)


def lease(
    table: Table, units: int, now_us: int = START, end_us: int = START + WINDOW, epoch: int = 0
) -> None:
    table.put_lease(request(), now_us, epoch, 7, units, 3, end_us, 0)


def test_a_key_without_a_lease_is_to_be_asked_for_and_nothing_is_charged(table: Table) -> None:
    decision = table.decide_shared([request()], START, StoreView())
    assert (decision.verdict, decision.source) == ("lacking", (NOTHING,))
    assert table.peek(KEY, SLOT, START) is None


def test_a_lease_is_spent_unit_by_unit_and_then_asked_for(table: Table) -> None:
    lease(table, 2)
    verdicts = [table.decide_shared([request()], START + n, StoreView()).verdict for n in range(3)]
    assert verdicts == ["admitted", "admitted", "lacking"]
    peeked = table.peek(KEY, SLOT, START)
    assert peeked is not None
    assert peeked.used == 2


def test_a_lease_is_not_spent_at_its_end_or_in_another_epoch(table: Table) -> None:
    lease(table, 2, end_us=START + 5)
    assert table.decide_shared([request()], START + 5, StoreView()).verdict == "lacking"
    assert table.decide_shared([request()], START + 5, StoreView(epoch=1)).verdict == "lacking"
    lease(table, 2, epoch=1)
    assert table.decide_shared([request()], START + 6, StoreView(epoch=0)).verdict == "lacking"
    assert table.decide_shared([request()], START + 6, StoreView(epoch=1)).verdict == "admitted"


def test_all_or_none_of_several_keys(table: Table) -> None:
    lease(table, 5)
    both = [request(), request(KEY + 1)]
    decision = table.decide_shared(both, START, StoreView())
    assert (decision.verdict, decision.source) == ("lacking", (LEASE, NOTHING))
    granted = Granted(KEY + 1, end_us=START + 10, units=1, used=4)
    decision = table.decide_shared(both, START, StoreView(), [granted])
    assert (decision.verdict, decision.source, decision.used[1]) == ("admitted", (LEASE, GRANT), 4)
    assert table.decide_shared(both, START + 10, StoreView(), [granted]).verdict == "lacking"
    refused = Granted(KEY + 1, retry_at_us=START + 500)
    decision = table.decide_shared(both, START, StoreView(), [refused])
    assert (decision.verdict, decision.refused_by, decision.retry_at_us) == ("refused", 1, START + 500)


def test_a_denial_is_believed_until_it_ends_or_the_limit_changes(table: Table) -> None:
    table.put_lease(request(), START, 0, 7, 0, 0, 0, START + 100)
    decision = table.decide_shared([request()], START + 99, StoreView())
    assert (decision.verdict, decision.retry_at_us) == ("refused", START + 100)
    assert table.decide_shared([request(generation=1)], START + 99, StoreView()).verdict == "lacking"
    assert table.decide_shared([request()], START + 100, StoreView()).verdict == "lacking"


@pytest.mark.parametrize(("nodes", "share"), [(1, 10), (3, 3), (4, 2), (20, 1)])
def test_while_the_store_is_away_a_node_keeps_to_its_share(table: Table, nodes: int, share: int) -> None:
    away = StoreView(AWAY, 1, nodes)
    decisions = [table.decide_shared([request(on_failure=LOCAL)], START + n, away) for n in range(12)]
    assert sum(decision.verdict == "admitted" for decision in decisions) == share
    last = decisions[-1]
    assert share == 10 or last.verdict == "refused"
    assert last.verdict == "admitted" or last.retry_at_us > START


def test_open_passes_and_closed_passes_nothing(table: Table) -> None:
    away = StoreView(AWAY, 1, 4)
    assert table.decide_shared([request(on_failure=OPEN, limit=1)], START, away).verdict == "admitted"
    assert table.decide_shared([request(on_failure=OPEN, limit=1)], START, away).verdict == "admitted"
    assert table.decide_shared([request(KEY + 1, on_failure=CLOSED)], START, away).verdict == "unknown"
    assert table.peek(KEY + 1, SLOT, START) is None


def test_after_the_return_share_and_store_must_agree(table: Table) -> None:
    both = StoreView(BOTH, 1, 5)
    lease(table, 9, epoch=1)
    granted = Granted(KEY, units=1)
    assert table.decide_shared([request()], START, both).verdict == "lacking"
    for _ in range(2):
        assert table.decide_shared([request()], START, both, [granted]).verdict == "admitted"
    assert table.decide_shared([request()], START, both).verdict == "refused"


@pytest.mark.parametrize("mode", [AWAY, BOTH])
def test_all_who_waited_for_a_grant_keep_to_the_share_together(table: Table, mode: int) -> None:
    """Each of them saw room in the share, and the store knows nothing yet of what the others admitted."""
    view = StoreView(mode, 1, 5)
    granted = [Granted(KEY, units=1)]
    verdicts = [table.decide_shared([request()], START, view, granted).verdict for _ in range(5)]
    assert verdicts == ["admitted"] * 2 + ["refused"] * 3


def test_what_was_admitted_without_the_store_is_told_once_with_its_ages(table: Table) -> None:
    away = StoreView(AWAY, 1, 1)
    for at_us in (START, START + 1, START + 3 * SLOT):
        assert table.decide_shared([request()], at_us, away).verdict == "admitted"
    found = table.unpushed(0, table.buckets, START, 1)
    assert found == [(KEY, 1)]
    owed = table.prepare(KEY, SLOT, START + 4 * SLOT, StoreView(BOTH, 1, 1))
    # The store's slots begin at other instants: the ages are the least that they may be there.
    assert (owed.stale, owed.debt, owed.own) == (True, 0, ((0, 1), (3, 2)))
    assert table.unpushed(0, table.buckets, START, 1) == []
    again = table.prepare(KEY, SLOT, START + 4 * SLOT, StoreView(BOTH, 1, 1))
    assert not again.stale


def test_a_worker_that_alone_does_not_reach_the_store_owes_a_debt(table: Table) -> None:
    unlinked = StoreView(AWAY, 0, 1, unlinked=True)
    assert table.decide_shared([request(cost=3)], START, unlinked).verdict == "admitted"
    owed = table.prepare(KEY, SLOT, START, StoreView())
    assert (owed.stale, owed.debt, owed.known) == (False, 3, 0)
    assert table.prepare(KEY, SLOT, START, StoreView()).debt == 0


def test_an_observed_limit_never_waits_and_owes(table: Table) -> None:
    decision = table.decide_shared([request(observe=1)], START, StoreView())
    assert (decision.verdict, decision.source) == ("admitted", (NOTHING,))
    assert table.prepare(KEY, SLOT, START, StoreView()).debt == 1


def test_a_lease_that_ended_goes_back_once(table: Table) -> None:
    lease(table, 5, end_us=START + 10)
    table.decide_shared([request()], START, StoreView())
    assert table.prepare(KEY, SLOT, START + 9, StoreView()).returned == 0
    owed = table.prepare(KEY, SLOT, START + 10, StoreView())
    assert (owed.returned, owed.returned_slot, owed.known, owed.want) == (4, 3, 7, 1)
    assert table.prepare(KEY, SLOT, START + 10, StoreView()).returned == 0


def test_a_new_lease_gives_back_what_is_left_of_the_old_one(table: Table) -> None:
    lease(table, 5)
    assert table.put_lease(request(), START, 0, 7, 8, 4, START + WINDOW, 0) == (5, 3)
    assert table.put_lease(request(), START, 0, 9, 8, 4, START + WINDOW, 0) == (0, 0)  # another incarnation


def test_a_lease_of_a_lost_key_is_no_unit_of_the_one_in_its_place(table: Table) -> None:
    lease(table, 5, end_us=START + 10)
    table.decide_shared([request()], START, StoreView())
    table.put_lease(request(), START, 0, 9, 0, 0, 0, 0)
    owed = table.prepare(KEY, SLOT, START + 10, StoreView())
    assert (owed.known, owed.returned) == (9, 0)
    lease(table, 5, end_us=START + 20)
    granted = [Granted(KEY, units=1, incarnation=9)]
    assert table.decide_shared([request()], START + 10, StoreView(), granted).source == (GRANT,)
    assert table.prepare(KEY, SLOT, START + 20, StoreView()).returned == 0


def test_what_a_call_took_along_that_failed_is_told_with_everything(table: Table) -> None:
    table.decide_shared([request()], START, StoreView(AWAY, 1, 2))
    table.prepare(KEY, SLOT, START, StoreView(BOTH, 1, 2))
    assert table.unpushed(0, table.buckets, START, 2) == []
    assert table.unpushed(0, table.buckets, START, 2, everything=True) == [(KEY, 1)]


def test_a_lost_key_is_told_all_and_returns_nothing(table: Table) -> None:
    lease(table, 5)
    table.decide_shared([request()], START, StoreView())
    owed = table.prepare(KEY, SLOT, START, StoreView(), lost=True)
    assert (owed.stale, owed.returned, owed.own, owed.known) == (True, 0, ((0, 1),), 7)
    assert table.decide_shared([request()], START, StoreView()).verdict == "lacking"


def test_data_that_was_lost_is_found_by_the_epoch(table: Table) -> None:
    lease(table, 5)
    table.decide_shared([request()], START, StoreView())
    assert table.unpushed(0, table.buckets, START, 1) == []
    assert table.unpushed(0, table.buckets, START, 1, everything=True) == [(KEY, 1)]
    assert table.unpushed(0, table.buckets, START, 0, everything=True) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["decide", "lease", "prepare", "away", "back", "tick"]),
            st.integers(0, 2),
            st.integers(1, 4),
        ),
        max_size=60,
    )
)
def test_units_are_spent_once(steps: list[tuple[str, int, int]]) -> None:
    """Invariant: what was admitted by leases is never more than what was leased, and what goes back to the
    store is never more than what was leased and not spent."""
    table = a_table()
    now_us, epoch, mode = START, 0, SHARED
    leased = spent = returned = 0
    for what, key, units in steps:
        view = StoreView(mode, epoch, 2)
        if what == "decide":
            decision = table.decide_shared([request(KEY + key, cost=units, limit=1000)], now_us, view)
            if decision.verdict == "admitted" and decision.source == (LEASE,):
                spent += units
        elif what == "lease":
            leased += units
            left, _ = table.put_lease(
                request(KEY + key), now_us, epoch, 7, units, 1, now_us + units * SLOT, 0
            )
            returned += left
        elif what == "prepare":
            returned += table.prepare(KEY + key, SLOT, now_us, view).returned
        elif what == "away":
            mode, epoch = AWAY, epoch + 1
        elif what == "back":
            mode = BOTH if units == 1 else SHARED
        else:
            now_us += units * SLOT // 2
        assert spent + returned <= leased
    assert table.verify() == []
