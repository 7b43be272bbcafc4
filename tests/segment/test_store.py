"""The words of the store: who opens, who closes, and what has to be charged again."""

from __future__ import annotations

import mmap

from ratelimitd.segment import layout
from ratelimitd.segment.store import StoreMode, StoreWords


def words() -> StoreWords:
    return StoreWords(mmap.mmap(-1, layout.HEADER_SIZE))


def test_a_new_segment_has_a_store_and_one_node() -> None:
    state = words().read()
    assert (state.mode, state.epoch, state.nodes_assumed, state.nodes_now) == (StoreMode.SHARED, 0, 1, 1)


def test_an_opening_begins_an_epoch_and_only_the_first_one_counts() -> None:
    store = words()
    assert store.open_breaker(1_000)
    assert not store.open_breaker(2_000)
    state = store.read()
    assert (state.mode, state.epoch, state.away_since_us) == (StoreMode.AWAY, 1, 1_000)
    assert state.recharge_since_us == 1_000


def test_a_store_lost_again_before_all_was_pushed_is_recharged_from_the_first_loss_on() -> None:
    store = words()
    store.open_breaker(1_000)
    store.close_breaker(StoreMode.BOTH)
    store.open_breaker(5_000)
    state = store.read()
    assert (state.epoch, state.away_since_us, state.recharge_since_us) == (2, 5_000, 1_000)


def test_a_close_keeps_the_epoch_and_a_loss_of_data_begins_one() -> None:
    store = words()
    store.open_breaker(1_000)
    store.close_breaker(StoreMode.SHARED)
    assert store.read().epoch == 1
    store.restart_epoch(500)
    state = store.read()
    assert (state.mode, state.epoch, state.recharge_since_us) == (StoreMode.SHARED, 2, 500)


def test_epochs_wrap_within_their_bits() -> None:
    store = words()
    for round_number in range((1 << 16) + 1):
        store.open_breaker(round_number + 1)
        store.close_breaker(StoreMode.SHARED)
    state = store.read()
    assert (state.mode, state.epoch) == (StoreMode.SHARED, 1)


def test_nodes_are_at_least_this_one() -> None:
    store = words()
    store.set_nodes(4, 3)
    state = store.read()
    assert (state.nodes_assumed, state.nodes_now) == (4, 3)
