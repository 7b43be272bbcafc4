"""Every name that a worker will ask for has a number before it asks, and keeps it."""

import msgspec

from ratelimitd.config.model import Limit, Rate
from ratelimitd.control import catalogue
from ratelimitd.segment.memory import Segment
from ratelimitd.segment.series import CODES, HANDSHAKE_FAILURES, OUTCOMES
from tests.control.daemon import config

LIMIT = Limit(
    "per-client",
    per=("client",),
    rates=(Rate(100, 10_000_000), Rate(10, 100_000)),
    overrides=(("192.0.2.1", (Rate(5, 60_000_000),)), ("192.0.2.2", (Rate(9, 10_000_000),))),
)


def test_a_second_configuration_keeps_the_numbers_of_the_first() -> None:
    segment = Segment.create(entries=100, pages=2)
    catalogue.register(config(limits=(LIMIT,)), segment.registry)
    limits, series = segment.registry.limits(), segment.registry.all_series()
    assert sorted(limits.values()) == [1, 2, 3]
    other = msgspec.structs.replace(LIMIT, name="other")
    catalogue.register(config(limits=(other, LIMIT)), segment.registry)
    assert segment.registry.all_series()[: len(series)] == series
    assert segment.registry.limits().items() >= limits.items()
    assert len(segment.registry.limits()) == 6


def test_slots_that_workers_step_through_are_consecutive() -> None:
    """Outcomes and failures of a listener, codes of a server: a worker adds an index to the first."""
    segment = Segment.create(entries=100, pages=2)
    catalogue.register(config(limits=(LIMIT,)), segment.registry)
    slot = segment.registry.series
    outcomes = [slot("ratelimitd_requests_total", ("127.0.0.1:0", outcome)) for outcome in OUTCOMES]
    codes = [
        slot("ratelimitd_upstream_requests_total", ("web", "http://127.0.0.1:9", code)) for code in CODES
    ]
    failures = [
        slot("ratelimitd_handshake_failures_total", ("127.0.0.1:0", reason)) for reason in HANDSHAKE_FAILURES
    ]
    for slots in (outcomes, codes, failures):
        assert slots == list(range(slots[0], slots[0] + len(slots)))
