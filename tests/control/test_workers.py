"""The rules of replacement, as tables."""

import pytest

from ratelimitd.control.life import NEXT, Life
from ratelimitd.control.process import exit_text
from ratelimitd.control.workers import replacement_delay_ms


@pytest.mark.parametrize(
    ("deaths", "delay_ms"),
    [(1, 0), (2, 0), (3, 100), (4, 200), (5, 400), (6, 800), (7, 1_600), (8, 2_000), (1_000, 2_000)],
)
def test_delay_before_a_replacement(deaths: int, delay_ms: int) -> None:
    assert replacement_delay_ms(deaths) == delay_ms


def test_every_life_leads_to_its_end() -> None:
    assert set(NEXT) == set(Life)
    for life in Life:
        assert life is Life.ENDED or Life.ENDED in NEXT[life]
    assert not NEXT[Life.ENDED]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with status 0"),
        (-9, "was killed by SIGKILL"),
        (-11, "was killed by SIGSEGV"),
        (-99, "signal 99"),
    ],
)
def test_how_a_process_ended(status: int, text: str) -> None:
    assert text in exit_text(status)
