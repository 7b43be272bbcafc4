"""The calls of a worker as bytes: the same as those that the supervisor makes of the same values."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.fleet import taking
from ratelimitd.fleet.names import key_prefix
from ratelimitd.fleet.take import TAKE, Take

NUMBERS = [st.integers(0, 2**53)] * 10
PAIRS = st.lists(st.tuples(st.integers(0, 65_535), st.integers(1, 2**32 - 1)), max_size=4).map(tuple)


@given(
    st.text("abcdefghijklmnopqrstuvwxyz-_:", max_size=200),
    st.integers(0, 2**64 - 1),
    st.builds(Take, *NUMBERS, st.integers(-1, 31), PAIRS, PAIRS),
)
def test_both_make_the_same_bytes(limit: str, key: int, take: Take) -> None:
    """Invariant: command and whole command are those of Script, byte for byte."""
    prefix = key_prefix("rl:", limit, 10_000_000)
    name = b"%b%016x}" % (prefix, key)
    numbers = (*dataclasses.astuple(take)[:11], len(take.returns))
    packed = taking.packed(prefix, key, numbers, (*take.returns, *take.own))
    assert packed == TAKE.call(name, *take.arguments())
    assert taking.whole(packed) == TAKE.whole(name, *take.arguments())
