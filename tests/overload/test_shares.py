"""Of a class that passes in part, as much passes as is to, and who uses little is never refused."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimitd.overload.shares import Shares

TURNS = 20
USES = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def key_of(client: int) -> int:
    """A hash whose cell, with the salt 1, is the client's own."""
    return client << 52


def passing(uses: list[int], part: float) -> tuple[Shares, list[float]]:
    """How much of its use each client gets through, once its use is known."""
    shares = Shares(1)
    passed = [0.0] * len(uses)
    for turn in range(3 * TURNS):
        for client, use in enumerate(uses):
            for _ in range(use):
                chance = shares.count(key_of(client))
                if turn >= TURNS:
                    passed[client] += chance / (2 * TURNS)
        shares.end_turn(part)
    return shares, passed


@settings(max_examples=30)
@given(uses=USES, part=st.floats(0.01, 0.99))
def test_as_much_passes_as_is_to(uses: list[int], part: float) -> None:
    _, passed = passing(uses, part)
    assert abs(sum(passed) - part * sum(uses)) <= 0.02 * sum(uses)


@settings(max_examples=30)
@given(uses=USES, part=st.floats(0.01, 0.99))
def test_who_uses_least_passes_first(uses: list[int], part: float) -> None:
    """Everybody gets the same through, but who asks for less than that, who gets all of it."""
    _, passed = passing(uses, part)
    most = max(passed)
    for use, got in zip(uses, passed, strict=True):
        assert got >= 0.97 * min(use, most)


@given(keys=st.lists(st.integers(0, 2**64 - 1)), salt=st.integers(0, 2**64 - 1), part=st.floats(0.0, 1.0))
def test_a_chance_is_one_whoever_asks(keys: list[int], salt: int, part: float) -> None:
    shares = Shares(salt)
    for _ in range(3):
        assert all(shares.count(key) <= 1.0 for key in keys)
        shares.end_turn(part)


def test_one_that_asks_for_most_pays_for_all() -> None:
    uses = [1] * 30 + [30]
    _, passed = passing(uses, 0.75)
    assert min(passed[:30]) > 0.999
    assert 14 < passed[30] < 16


def test_while_nobody_is_known_nobody_is_judged_and_who_is_new_passes() -> None:
    shares = Shares()
    assert shares.count(key_of(1)) < 0
    for _ in range(100):
        shares.count(key_of(1))
    shares.end_turn(0.5)
    assert shares.count(key_of(2)) == 1.0
    assert 0.49 < shares.count(key_of(1)) < 0.51
    for _ in range(400):
        shares.end_turn(0.5)
    assert shares.count(key_of(1)) < 0, "what was long ago is forgotten"
