"""What is said of the store: each exception once in the log and the journal, and counted."""

from __future__ import annotations

import logging

import pytest

from ratelimitd.control.store_report import REASONS, Exceptions, StoreReport, no_store


def test_an_exception_is_counted_logged_and_noted(caplog: pytest.LogCaptureFixture) -> None:
    noted: list[tuple[str, str, object]] = []
    exceptions = Exceptions(lambda event, message, **details: noted.append((event, message, details)))
    with caplog.at_level(logging.WARNING):
        exceptions.count("store_lost", "it is away", "store_lost")
        exceptions.count("secret", "another one")
        exceptions.count("secret", "another one")
    assert exceptions.counts == dict.fromkeys(REASONS, 0) | {"store_lost": 1, "secret": 2}
    assert [record.message for record in caplog.records] == ["it is away", "another one", "another one"]
    assert noted[:2] == [
        ("store_lost", "it is away", {"reason": "store_lost"}),
        ("limit_exception", "another one", {"reason": "secret"}),
    ]


def test_only_who_is_away_is_not_up() -> None:
    assert no_store().is_up
    assert [StoreReport(state).is_up for state in ("shared", "away", "returning")] == [True, False, True]
