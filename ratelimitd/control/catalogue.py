"""Gives every name of a configuration its id and slots, before a worker may ask for them.

Labels are listener: `bind`, limit: its name, upstream: its name, server: its URL, each as written. Series
that exist from the start are 0 until something happens, so that a first event shows as a rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ratelimitd.limits.policy import windows_us
from ratelimitd.segment import series as names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ratelimitd.config.model import Config
    from ratelimitd.segment.registry import Registry


def register(config: Config, registry: Registry) -> None:
    """Name all limits and series of `config`; those that have a number keep it."""
    for limit in config.limits:
        for name, window_us in windows_us(limit):
            registry.limit_id(name, window_us)
    for metric, labels in _series(config):
        registry.series(metric, labels, names.METRICS[metric].width)


def _series(config: Config) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from _series_of_settings(config)
    yield "ratelimitd_overhead_seconds", ()
    for reason in names.REFUSED_REASONS:
        yield "ratelimitd_connections_refused_total", (reason,)
    for result in names.STORE_RESULTS:
        yield "ratelimitd_store_calls_total", (result,)
    yield "ratelimitd_store_duration_seconds", ()
    for direction in names.DIRECTIONS:
        yield "ratelimitd_bytes_total", (direction,)


def _series_of_settings(config: Config) -> Iterator[tuple[str, tuple[str, ...]]]:
    for listener in config.listen:
        for outcome in names.OUTCOMES:
            yield "ratelimitd_requests_total", (listener.bind, outcome)
        for state in names.CONNECTION_STATES:
            yield "ratelimitd_connections", (listener.bind, state)
        for reason in names.HANDSHAKE_FAILURES:
            yield "ratelimitd_handshake_failures_total", (listener.bind, reason)
    for limit in config.limits:
        for decision in names.DECISIONS:
            yield "ratelimitd_limit_decisions_total", (limit.name, decision)
        yield "ratelimitd_store_fallback_total", (limit.name,)
    for upstream in config.upstreams:
        yield "ratelimitd_request_duration_seconds", (upstream.name,)
        for server in upstream.servers:
            yield "ratelimitd_upstream_inflight", (upstream.name, server.url)
            for code in names.CODES:
                yield "ratelimitd_upstream_requests_total", (upstream.name, server.url, code)
