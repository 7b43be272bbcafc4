"""The one table of the metrics that are counted in pages: name, kind, labels, bounds.

Names and labels are the contract with the operator's dashboards: add, never rename. Values of labels come
from the configuration alone, never from a client. A histogram takes one slot for each bound, one for what
lies above them all, and one for the sum in microseconds; the counts of its slots are not cumulative.
"""

from __future__ import annotations

import dataclasses
import enum
from types import MappingProxyType
from typing import Final


class Kind(enum.Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric. `bounds_us` are the upper bounds of a histogram, in microseconds."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds_us: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """How many slots one series takes."""
        return len(self.bounds_us) + 2 if self.kind is Kind.HISTOGRAM else 1


OUTCOMES: Final = (
    "forwarded",
    "limited",
    "shed",
    "denied",
    "malformed",
    "timeout",
    "upstream_error",
    "client_gone",
)
DECISIONS: Final = ("allowed", "limited", "observed")
CODES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
CONNECTION_STATES: Final = ("active", "idle", "tunnel")
REFUSED_REASONS: Final = ("client", "total", "pressure")
STORE_RESULTS: Final = ("ok", "error", "late")
HANDSHAKE_FAILURES: Final = ("untrusted", "proxy_header", "tls", "timeout")
DIRECTIONS: Final = ("in", "out")

_MS: Final = 1_000
_S: Final = 1_000_000
_REQUEST_BOUNDS_US: Final = (
    *(500, 1 * _MS, 2_500, 5 * _MS, 10 * _MS, 25 * _MS, 50 * _MS, 100 * _MS, 250 * _MS, 500 * _MS),
    *(1 * _S, 2_500 * _MS, 5 * _S, 10 * _S, 30 * _S, 60 * _S),
)
_OVERHEAD_BOUNDS_US: Final = (
    10,
    25,
    50,
    100,
    250,
    500,
    1 * _MS,
    2_500,
    5 * _MS,
    10 * _MS,
    50 * _MS,
    250 * _MS,
)

_STORE_BOUNDS_US: Final = (
    *(100, 250, 500, 1 * _MS, 2_500, 5 * _MS, 10 * _MS, 25 * _MS, 50 * _MS, 100 * _MS, 1 * _S),
)

_ALL: Final = (
    Metric(
        "ratelimitd_requests_total",
        Kind.COUNTER,
        "Requests that ended, by what became of them.",
        ("listener", "outcome"),
    ),
    Metric(
        "ratelimitd_limit_decisions_total",
        Kind.COUNTER,
        "Decisions of each limit.",
        ("limit", "decision"),
    ),
    Metric(
        "ratelimitd_request_duration_seconds",
        Kind.HISTOGRAM,
        "From the first byte of a request to the last byte of its answer.",
        ("upstream",),
        _REQUEST_BOUNDS_US,
    ),
    Metric(
        "ratelimitd_overhead_seconds",
        Kind.HISTOGRAM,
        "Time of a request spent in ratelimitd itself.",
        (),
        _OVERHEAD_BOUNDS_US,
    ),
    Metric(
        "ratelimitd_upstream_requests_total",
        Kind.COUNTER,
        "Answers of each web server, by class of status.",
        ("upstream", "server", "code"),
    ),
    Metric(
        "ratelimitd_upstream_inflight",
        Kind.GAUGE,
        "Requests that a web server is working on.",
        ("upstream", "server"),
    ),
    Metric(
        "ratelimitd_connections",
        Kind.GAUGE,
        "Connections of clients.",
        ("listener", "state"),
    ),
    Metric(
        "ratelimitd_connections_refused_total",
        Kind.COUNTER,
        "Connections closed at accept, by the bound they would have passed.",
        ("reason",),
    ),
    Metric(
        "ratelimitd_handshake_failures_total",
        Kind.COUNTER,
        "Connections closed before their first request: no trusted proxy where one must bring a PROXY "
        "header, no such header, no TLS where it must be, or too slow.",
        ("listener", "reason"),
    ),
    Metric(
        "ratelimitd_bytes_total",
        Kind.COUNTER,
        "Bytes received from and sent to clients.",
        ("direction",),
    ),
    Metric(
        "ratelimitd_store_calls_total",
        Kind.COUNTER,
        "Calls of the store: answered, refused or broken off, or not answered within store_options.deadline.",
        ("result",),
    ),
    Metric(
        "ratelimitd_store_duration_seconds",
        Kind.HISTOGRAM,
        "From a call of the store to its answer.",
        (),
        _STORE_BOUNDS_US,
    ),
    Metric(
        "ratelimitd_store_fallback_total",
        Kind.COUNTER,
        "Decisions of each limit that were taken while the store was away.",
        ("limit",),
    ),
)

METRICS: Final = MappingProxyType({metric.name: metric for metric in _ALL})
