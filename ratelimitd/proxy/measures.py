"""Where the data plane counts: the slots of all series that one configuration needs, looked up once.

The supervisor has named them before a worker starts or compiles; asking for one that has no name is a
KeyError, and a mistake of ours. On the way of a request only the numbers are used.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from ratelimitd.segment.series import (
    CODES,
    HANDSHAKE_FAILURES,
    METRICS,
    OUTCOMES,
    REFUSED_REASONS,
    STORE_RESULTS,
)

if TYPE_CHECKING:
    from ratelimitd.segment.registry import Registry

_DURATION: Final = "ratelimitd_request_duration_seconds"
_STORE_DURATION: Final = "ratelimitd_store_duration_seconds"
_OVERHEAD: Final = "ratelimitd_overhead_seconds"


@dataclasses.dataclass(frozen=True)
class Measures:
    """What belongs to no listener, limit or server."""

    bytes_in: int
    bytes_out: int
    overhead: int
    refused_total: int
    refused_client: int
    request_bounds_us: tuple[int, ...]
    overhead_bounds_us: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ListenerSlots:
    first_outcome: int
    active: int
    idle: int
    tunnel: int
    first_failure: int


@dataclasses.dataclass(frozen=True)
class ServerSlots:
    first_code: int
    in_flight: int


def measures(registry: Registry) -> Measures:
    refused = {
        reason: registry.series("ratelimitd_connections_refused_total", (reason,))
        for reason in REFUSED_REASONS
    }
    return Measures(
        bytes_in=registry.series("ratelimitd_bytes_total", ("in",)),
        bytes_out=registry.series("ratelimitd_bytes_total", ("out",)),
        overhead=registry.series(_OVERHEAD, ()),
        refused_total=refused["total"],
        refused_client=refused["client"],
        request_bounds_us=METRICS[_DURATION].bounds_us,
        overhead_bounds_us=METRICS[_OVERHEAD].bounds_us,
    )


def listener_slots(registry: Registry, bind: str) -> ListenerSlots:
    outcomes = [registry.series("ratelimitd_requests_total", (bind, outcome)) for outcome in OUTCOMES]
    failures = [
        registry.series("ratelimitd_handshake_failures_total", (bind, reason))
        for reason in HANDSHAKE_FAILURES
    ]
    return ListenerSlots(
        first_outcome=_consecutive(outcomes),
        active=registry.series("ratelimitd_connections", (bind, "active")),
        idle=registry.series("ratelimitd_connections", (bind, "idle")),
        tunnel=registry.series("ratelimitd_connections", (bind, "tunnel")),
        first_failure=_consecutive(failures),
    )


def server_slots(registry: Registry, upstream: str, server: str) -> ServerSlots:
    codes = [
        registry.series("ratelimitd_upstream_requests_total", (upstream, server, code)) for code in CODES
    ]
    return ServerSlots(
        first_code=_consecutive(codes),
        in_flight=registry.series("ratelimitd_upstream_inflight", (upstream, server)),
    )


@dataclasses.dataclass(frozen=True)
class StoreSlots:
    first_result: int
    duration: int
    duration_bounds_us: tuple[int, ...]


def store_slots(registry: Registry) -> StoreSlots:
    results = [registry.series("ratelimitd_store_calls_total", (result,)) for result in STORE_RESULTS]
    return StoreSlots(
        first_result=_consecutive(results),
        duration=registry.series(_STORE_DURATION, ()),
        duration_bounds_us=METRICS[_STORE_DURATION].bounds_us,
    )


def fallback_slot(registry: Registry, limit: str) -> int:
    return registry.series("ratelimitd_store_fallback_total", (limit,))


def duration_slot(registry: Registry, upstream: str) -> int:
    return registry.series(_DURATION, (upstream,))


def decision_slot(registry: Registry, limit: str, decision: str) -> int:
    return registry.series("ratelimitd_limit_decisions_total", (limit, decision))


def _consecutive(slots: list[int]) -> int:
    """The first of slots that were named one after the other, so that the hot path only adds to it."""
    if slots != list(range(slots[0], slots[0] + len(slots))):
        raise AssertionError(f"slots {slots} are not consecutive")
    return slots[0]
