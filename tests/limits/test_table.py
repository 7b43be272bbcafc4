"""The table decides like the model, whatever the sequence; and keeps its places as it promises."""

from __future__ import annotations

import random

import pytest

from ratelimitd.errors import SegmentError
from ratelimitd.limits.table import Request, Table, shape
from tests.limits.model import Model
from tests.limits.sequences import Log, Scenario, record
from tests.limits.tables import HEADER_SIZE, TableMemory

SECOND = 1_000_000
NOW = 100 * SECOND


@pytest.mark.parametrize("block", range(10))
def test_every_decision_is_the_models_and_no_window_is_over(block: int) -> None:
    for seed in range(block * 30, block * 30 + 30):
        scenario = Scenario(seed)
        memory = TableMemory(scenario.stripes)
        model = Model(scenario.stripes)
        log: Log = {}
        for requests, now_us in scenario.steps(200):
            decision = memory.table.decide(requests, now_us)
            verdict, at_us, used = model.decide(requests, now_us)
            assert (decision.verdict, decision.at_us) == (verdict, at_us), f"seed {seed}"
            if verdict == "admitted":
                assert decision.used == used, f"seed {seed}"
                record(log, requests, at_us)
        assert scenario.over_the_limit(log) == [], f"seed {seed}"
        assert memory.table.verify() == []


def test_a_decision_of_sixteen_charges_agrees_with_the_model() -> None:
    chance = random.Random(5)
    memory, model = TableMemory(4, 4), Model(4)
    keys = [chance.getrandbits(64) for _ in range(16)]
    now_us = NOW
    for _ in range(400):
        requests = [
            Request(key, 3_000, 20, 1, 0, limit_id=i + 1, observe=i % 5 == 0) for i, key in enumerate(keys)
        ]
        requests = chance.sample(requests, 14) + chance.choices(requests, k=2)
        now_us += chance.choice((0, 1, 1_500, 40_000))
        decision = memory.table.decide(requests, now_us)
        assert (decision.verdict, decision.at_us) == model.decide(requests, now_us)[:2]
    assert memory.table.verify() == []
    with pytest.raises(ValueError, match="16 charges"):
        memory.table.decide([Request(1, 1, 1)] * 17, NOW)


class TestAllOrNone:
    def test_no_charge_admits(self) -> None:
        assert TableMemory().table.decide([], NOW).verdict == "admitted"

    def test_a_refused_request_charges_nothing_and_creates_nothing(self) -> None:
        table = TableMemory(4, 4).table
        full, fresh = Request(1, SECOND, 1), Request(2, SECOND, 5)
        table.decide([full], NOW)
        assert table.decide([fresh, full], NOW).verdict == "refused"
        assert table.peek(fresh.key, SECOND, NOW) is None
        assert table.count(0, table.buckets, NOW) == {1: 1}

    def test_a_cost_above_the_limit_is_refused_without_an_entry(self) -> None:
        table = TableMemory().table
        decision = table.decide([Request(1, SECOND, 5, cost=6)], NOW)
        assert (decision.verdict, decision.refused_by) == ("refused", 0)
        assert decision.retry_at_us > NOW
        assert table.count(0, table.buckets, NOW) == {}

    def test_equal_keys_of_one_decision_are_charged_together(self) -> None:
        table = TableMemory().table
        assert table.decide([Request(1, SECOND, 3, cost=2)] * 2, NOW).verdict == "refused"
        assert table.decide([Request(1, SECOND, 4, cost=2)] * 2, NOW).used == (4, 4)

    def test_an_observed_limit_is_charged_up_to_its_size_and_never_refuses(self) -> None:
        table = TableMemory().table
        observed, real = Request(1, SECOND, 2, observe=True), Request(2, SECOND, 4)
        decisions = [table.decide([observed, real], NOW) for _ in range(5)]
        assert [d.verdict for d in decisions] == ["admitted"] * 4 + ["refused"]
        assert [d.over for d in decisions] == [(False, False)] * 2 + [(True, False)] * 2 + [(True, True)]
        assert decisions[3].used == (2, 4)
        assert decisions[4].refused_by == 1

    def test_an_observed_limit_is_not_charged_when_another_refuses(self) -> None:
        table = TableMemory().table
        observed, real = Request(1, SECOND, 9, observe=True), Request(2, SECOND, 1)
        for _ in range(3):
            table.decide([observed, real], NOW)
        assert table.decide([observed], NOW).used == (2,)

    def test_the_limit_that_refuses_longest_is_named(self) -> None:
        table = TableMemory(4, 4).table
        short, long = Request(1, 1_000, 1), Request(2, SECOND, 1)
        table.decide([short, long], NOW)
        decision = table.decide([short, long], NOW)
        assert decision.refused_by == 1
        assert decision.retry_at_us == NOW + 32 * SECOND


class TestDenied:
    def test_a_refused_greater_cost_does_not_refuse_a_smaller_one(self) -> None:
        table = TableMemory().table
        table.decide([Request(1, SECOND, 10, cost=8)], NOW)
        assert table.decide([Request(1, SECOND, 10, cost=5)], NOW).verdict == "refused"
        assert table.decide([Request(1, SECOND, 10, cost=2)], NOW).verdict == "admitted"

    def test_retry_of_a_greater_cost_is_later_than_that_of_one_unit(self) -> None:
        table = TableMemory().table
        for second in range(3):
            table.decide([Request(1, SECOND, 3)], NOW + second * SECOND)
        later = NOW + 5 * SECOND
        assert table.decide([Request(1, SECOND, 3)], later).retry_at_us == NOW + 32 * SECOND
        assert table.decide([Request(1, SECOND, 3, cost=2)], later).retry_at_us == NOW + 33 * SECOND

    def test_a_raised_limit_opens_at_once(self) -> None:
        table = TableMemory().table
        for _ in range(2):
            table.decide([Request(1, SECOND, 1)], NOW)
        assert table.decide([Request(1, SECOND, 2)], NOW).verdict == "refused"
        assert table.decide([Request(1, SECOND, 2, generation=1)], NOW).verdict == "admitted"


class TestKeys:
    def test_reset_forgets_count_and_ban(self) -> None:
        table = TableMemory().table
        request = Request(1, SECOND, 1)
        table.decide([request], NOW)
        table.ban(1, 1, NOW + 99 * SECOND, NOW)
        assert table.reset(1, NOW)
        assert not table.reset(1, NOW)
        assert table.decide([request], NOW).verdict == "admitted"

    def test_a_ban_refuses_until_its_end_and_outlives_the_window(self) -> None:
        table = TableMemory().table
        request, end = Request(1, 1_000, 5), NOW + 60 * SECOND
        table.ban(1, 1, end, NOW)
        decision = table.decide([request], end - 1)
        assert (decision.verdict, decision.retry_at_us) == ("refused", end)
        assert table.peek(1, 1_000, end - 1) == (1, 0, 0, end)
        assert table.decide([request], end).verdict == "admitted"

    def test_a_ban_of_a_key_that_was_charged_keeps_its_place(self) -> None:
        table = TableMemory().table
        request, end = Request(1 << 12, 1_000, 5), NOW + 60 * SECOND
        table.decide([request], NOW)
        table.ban(request.key, 1, end, NOW)
        for key in range(2, 17):
            table.decide([Request(key << 12, SECOND, 9)], end - SECOND)
        assert table.decide([request], end - SECOND).retry_at_us == end
        assert table.counters()[:3] == (0, 0, 0)

    def test_unban_lifts_the_ban_and_leaves_the_count(self) -> None:
        table = TableMemory().table
        request = Request(1, SECOND, 2)
        table.decide([request], NOW)
        table.ban(1, 1, NOW + 9 * SECOND, NOW)
        assert table.unban(1, NOW)
        assert not table.unban(2, NOW)
        assert table.decide([request], NOW).used == (2,)

    def test_an_observed_limit_does_not_refuse_who_is_banned(self) -> None:
        table = TableMemory().table
        table.ban(1, 1, NOW + 9 * SECOND, NOW)
        decision = table.decide([Request(1, SECOND, 2, observe=True)], NOW)
        assert (decision.verdict, decision.over) == ("admitted", (True,))

    def test_peek_shows_the_window_at_its_instant_and_changes_nothing(self) -> None:
        table = TableMemory().table
        table.decide([Request(1, SECOND, 2, cost=2, limit_id=7)], NOW)
        table.decide([Request(1, SECOND, 2, limit_id=7)], NOW)
        assert table.peek(1, SECOND, NOW + SECOND) == (7, 2, NOW + 32 * SECOND, 0)
        assert table.peek(1, SECOND, NOW + 32 * SECOND) in (None, (7, 0, 0, 0))
        assert table.peek(1, SECOND, NOW + SECOND) == (7, 2, NOW + 32 * SECOND, 0)

    def test_count_walks_in_steps_and_leaves_out_what_is_over(self) -> None:
        table = TableMemory(8, 4).table
        for key in range(60):
            table.decide([Request(key << 12 | key, 1_000, 1, limit_id=1 + key % 2)], NOW)
        table.decide([Request(7, SECOND, 1, limit_id=3)], NOW)
        steps = [table.count(start, 5, NOW) for start in range(0, table.buckets, 5)]
        totals = {limit_id: sum(step.get(limit_id, 0) for step in steps) for limit_id in (1, 2, 3)}
        assert totals == {1: 30, 2: 30, 3: 1}
        assert table.count(0, table.buckets, NOW + 5 * SECOND) == {3: 1}
        assert table.count(table.buckets, 9, NOW) == {}


class TestPlaces:
    """One stripe of two buckets: sixteen places."""

    def test_sixteen_keys_fit_and_the_seventeenth_takes_the_place_of_the_least_used(self) -> None:
        table = TableMemory().table
        for key in range(16):
            table.decide([Request(key << 12, SECOND, 100, cost=20 + (key - 5) ** 2 % 70)], NOW)
        assert table.counters().evicted == 0
        table.decide([Request(99 << 12, SECOND, 100, cost=50)], NOW)
        assert table.peek(5 << 12, SECOND, NOW) is None
        assert table.counters()[:3] == (1, 0, 0)
        assert table.verify() == []

    @pytest.mark.parametrize("seed", range(50))
    def test_what_matters_most_is_forgotten_last(self, seed: int) -> None:
        table, chance = TableMemory().table, random.Random(seed)
        uses = [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 100, 1, 2, 3]
        order = list(range(16))
        chance.shuffle(order)
        for key in order:
            # 12 and 15 are at their limits, 13 and 14 will be banned
            limit_id, limit = (2, 3) if key == 15 else (1, 100)
            table.decide([Request(key << 12, SECOND, limit, cost=uses[key], limit_id=limit_id)], NOW)
        for key in (13, 14):
            table.ban(key << 12, 1, NOW + 9 * SECOND, NOW)
        expected = [*range(12), 12, 15, 13, 14]
        gone = []
        for newcomer in range(100, 116):
            fresh = Request(newcomer << 12, SECOND, 100, cost=99)
            table.decide([fresh], NOW)
            table.ban(fresh.key, 1, NOW + 99 * SECOND, NOW)
            missing = [k for k in range(16) if table.peek(k << 12, SECOND, NOW) is None and k not in gone]
            gone += missing
        assert gone[:12] == expected[:12]
        assert set(gone[12:14]) == {12, 15}
        assert table.counters().evicted == 12
        assert table.counters().evicted_hard == 4

    @pytest.mark.parametrize("present", range(17))
    def test_the_keys_of_a_decision_never_evict_one_another(self, present: int) -> None:
        memory = TableMemory()
        table = memory.table
        keys = [key << 12 for key in range(16)]
        for key in [*keys[:present], *(key << 12 for key in range(100, 116 - present))]:
            table.decide([Request(key, SECOND, 9)], NOW)
        random.Random(present).shuffle(keys)
        decision = table.decide([Request(key, SECOND, 9) for key in keys], NOW)
        assert decision.verdict == "admitted"
        seen = [table.peek(key, SECOND, NOW) for key in keys]
        assert sorted(peeked.used for peeked in seen if peeked) == [1] * (16 - present) + [2] * present
        assert table.verify() == []

    def test_an_expired_entry_gives_way_before_a_live_one(self) -> None:
        table = TableMemory().table
        for key in range(16):
            table.decide([Request(key << 12, 1_000 if key == 9 else SECOND, 9)], NOW)
        table.decide([Request(99 << 12, SECOND, 9)], NOW + 3 * SECOND)
        assert table.counters()[:3] == (0, 0, 1)
        assert table.peek(9 << 12, 1_000, NOW + 3 * SECOND) is None

    def test_an_old_clock_cannot_find_a_reclaimed_key_new_in_its_own_past(self) -> None:
        table = TableMemory().table
        victim = Request(1 << 12, 10_000, 1)  # 0.31 s
        table.decide([victim], NOW)
        for key in range(2, 18):
            table.decide([Request(key << 12, SECOND, 9)], NOW + 2 * SECOND)
        assert table.counters().reclaimed == 1
        assert table.decide([victim], NOW + SECOND + SECOND // 10).at_us == NOW + 2 * SECOND
        assert table.decide([victim], NOW + SECOND // 2).verdict == "stale"

    def test_keys_of_equal_tags_are_told_apart(self) -> None:
        table = TableMemory().table
        keys = [1 << 12, 1 << 12 ^ (7 << 32 | 7), 1 << 12 ^ (9 << 32 | 9)]
        for times, key in enumerate(keys, 1):
            for _ in range(times):
                used = table.decide([Request(key, SECOND, 9)], NOW).used
            assert used == (times,)
        assert table.verify() == []

    def test_keys_spread_over_both_of_their_buckets(self) -> None:
        memory = TableMemory(16, 8)  # 1,024 places
        table, chance = memory.table, random.Random(3)
        for _ in range(600):
            table.decide([Request(chance.getrandbits(64), SECOND, 9)], NOW)
        assert table.counters().evicted == 0
        assert table.verify() == []


class TestUnits:
    def test_a_limit_lowered_and_raised_again_forgets_nothing(self) -> None:
        table = TableMemory().table
        large, small = Request(1, SECOND, 1_000_000, shift=4), Request(1, SECOND, 1_000, generation=1)
        table.decide([large._replace(cost=900_000)], NOW)
        for second in range(1, 4):
            assert table.decide([small], NOW + second * SECOND).verdict == "refused"
        again = large._replace(generation=2, cost=100_001)
        assert table.decide([again], NOW + 4 * SECOND).verdict == "refused"
        assert table.decide([again._replace(cost=100_000)], NOW + 4 * SECOND).verdict == "admitted"

    def test_units_get_finer_when_every_slot_fits(self) -> None:
        table = TableMemory().table
        table.decide([Request(1, SECOND, 1_000_000, shift=4, cost=16)], NOW)
        table.decide([Request(1, SECOND, 1_000, generation=1)], NOW + SECOND)
        assert table.decide([Request(1, SECOND, 1_000, generation=1)], NOW + 2 * SECOND).used == (18,)

    @pytest.mark.parametrize("limit", [65_535, 65_536, 65_537, 2**31 - 1])
    def test_a_full_slot_is_never_cut_off(self, limit: int) -> None:
        table = TableMemory().table
        shift = max(0, (limit - 1).bit_length() - 16)
        whole = Request(1, SECOND, limit, limit, shift)
        assert table.decide([whole], NOW).verdict == "admitted"
        for second in (1, 30, 31):
            assert table.decide([whole._replace(cost=1)], NOW + second * SECOND).verdict == "refused"
        assert table.decide([whole], NOW + 32 * SECOND).verdict == "admitted"


class TestGeometry:
    @pytest.mark.parametrize("entries", [0, 1, 16, 17, 100, 1_000, 65_536, 1_000_000, 10_000_000])
    def test_a_shape_holds_its_entries_and_little_more(self, entries: int) -> None:
        stripes, buckets_per_stripe, size = shape(entries)
        assert stripes & (stripes - 1) == 0
        assert stripes <= 4096
        assert buckets_per_stripe >= 2
        assert entries <= stripes * buckets_per_stripe * 8 <= max(16, 1.6 * entries)
        assert size == stripes * 64 + stripes * buckets_per_stripe * 1088

    def test_the_smallest_table_works(self) -> None:
        stripes, buckets_per_stripe, size = shape(1)
        assert (stripes, buckets_per_stripe, size) == (1, 2, 2240)

    def test_memory_too_small_or_askew_is_refused(self) -> None:
        memory = TableMemory(2)
        wrong = ((HEADER_SIZE + 64, 2, 2), (HEADER_SIZE, 3, 2), (HEADER_SIZE, 2, 1), (1, 1, 2))
        for offset, stripes, buckets in wrong:
            with pytest.raises(SegmentError):
                Table(memory.memory, offset, stripes, buckets)

    def test_counters_lie_in_the_header_of_the_segment(self) -> None:
        memory = TableMemory()
        for key in range(17):
            memory.table.decide([Request(key << 12, SECOND, 9)], NOW)
        assert memory.memory[256:264] == (1).to_bytes(8, "little")
        assert memory.attach().counters() == memory.table.counters()
