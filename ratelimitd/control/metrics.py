"""What a scrape of /metrics reads: the pages of all processes, summed, and what the supervisor knows.

A total is the base page plus every page in use. Pages are folded by the same thread that reads them here,
between two scrapes and never during one, so that no counter is ever seen to go back.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from ratelimitd.control.store_report import REASONS
from ratelimitd.segment.series import METRICS, Kind, Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from ratelimitd.control.store_report import StoreReport
    from ratelimitd.segment.pages import Page
    from ratelimitd.segment.registry import Registry, Series


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the supervisor itself knows at the moment of a scrape."""

    version: str
    workers: int
    worker_restarts: int
    lag_us: tuple[tuple[int, int], ...]  # (worker, how late its loop runs)
    shed_level: float
    busy: float | None  # of the busiest worker; None: not known
    table_entries: int
    table_evictions: int
    limit_keys: tuple[tuple[str, int], ...]
    log_lines_dropped: int
    reload_successful: bool
    reload_success_at_s: float
    reloads: tuple[tuple[str, int], ...]  # (result, how many)
    store: StoreReport
    servers_up: tuple[tuple[tuple[str, str], bool], ...]  # ((upstream, server), whether it answers)


class DaemonCollector(Collector):
    """`pages` gives the base page and those of all processes."""

    def __init__(
        self, registry: Registry, pages: Callable[[], Sequence[Page]], facts: Callable[[], Facts]
    ) -> None:
        self._registry = registry
        self._pages = pages
        self._facts = facts

    def collect(self) -> Iterator[Family]:
        pages = self._pages()
        for metric in METRICS.values():
            series = [entry for entry in self._registry.all_series() if entry.metric == metric.name]
            yield _family(metric, series, pages)
        yield from _own(self._facts())


class Exposition:
    """Renders one collector as text or OpenMetrics."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(collector)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for an Accept field; plain text for one that makes no sense."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the library's own, for a version that is no number
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return encode(self._registry), content_type


def _family(metric: Metric, series: Iterable[Series], pages: Sequence[Page]) -> Family:
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for entry in series:
            buckets, sum_s = _histogram(metric, entry, pages)
            histogram.add_metric(entry.labels, buckets, sum_s)
        return histogram
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    for entry in series:
        family.add_metric(entry.labels, _total(entry.slot, pages))
    return family


def _histogram(
    metric: Metric, series: Series, pages: Sequence[Page]
) -> tuple[list[tuple[str, float]], float]:
    buckets: list[tuple[str, float]] = []
    count = 0
    bounds = [*(repr(bound_us / 1e6) for bound_us in metric.bounds_us), "+Inf"]
    for position, bound in enumerate(bounds):
        count += _total(series.slot + position, pages)
        buckets.append((bound, count))
    return buckets, _total(series.slot + series.width - 1, pages) / 1e6


def _total(slot: int, pages: Sequence[Page]) -> int:
    return sum(page.slots[slot] for page in pages)


def _own(facts: Facts) -> Iterator[Family]:
    build = GaugeMetricFamily(
        "ratelimitd_build_info", "Always 1; the version is a label.", labels=["version"]
    )
    build.add_metric([facts.version], 1)
    yield build
    yield GaugeMetricFamily("ratelimitd_workers", "Workers that accept connections.", facts.workers)
    yield CounterMetricFamily(
        "ratelimitd_worker_restarts_total", "Workers that ended and were replaced.", facts.worker_restarts
    )
    yield _by_label(
        "ratelimitd_loop_lag_seconds",
        "How late the loop of a worker runs: the median of its last ticks.",
        "worker",
        [(str(index), lag_us / 1e6) for index, lag_us in facts.lag_us],
    )
    yield GaugeMetricFamily("ratelimitd_shed_level", "Share of requests shed: 0 is none.", facts.shed_level)
    yield GaugeMetricFamily(
        "ratelimitd_cpu_pressure_ratio",
        "Share of its time in which the busiest worker wanted a CPU: 1 is no headroom.",
        facts.busy,
    )
    yield GaugeMetricFamily(
        "ratelimitd_table_entries", "Entries of the table that are in use.", facts.table_entries
    )
    yield CounterMetricFamily(
        "ratelimitd_table_evictions_total",
        "Entries dropped before their time because the table was full.",
        facts.table_evictions,
    )
    exceptions = CounterMetricFamily(
        "ratelimitd_limit_exceptions_total",
        "Events after which a limit may have been passed, by a bounded amount.",
        labels=["reason"],
    )
    for reason in REASONS:
        exceptions.add_metric([reason], facts.store.exceptions.get(reason, 0))
    exceptions.add_metric(["evicted"], facts.table_evictions)
    yield exceptions
    if facts.store.state != "memory":
        yield from _store(facts.store)
    yield _by_label("ratelimitd_limit_keys", "Keys that a limit counts now.", "limit", facts.limit_keys)
    yield CounterMetricFamily(
        "ratelimitd_log_lines_dropped_total",
        "Lines of the access log that were not written: its reader was too slow, or writing failed.",
        facts.log_lines_dropped,
    )
    up = GaugeMetricFamily(
        "ratelimitd_upstream_up",
        "Whether a web server answers: 0 after it could not be reached, until it answers again.",
        labels=["upstream", "server"],
    )
    for name, is_up in facts.servers_up:
        up.add_metric(name, is_up)
    yield up
    yield from _reloads(facts)


def _store(store: StoreReport) -> Iterator[Family]:
    yield GaugeMetricFamily(
        "ratelimitd_store_up",
        "Whether the store answers in time: 0 while limits are kept without it.",
        store.is_up,
    )
    yield GaugeMetricFamily(
        "ratelimitd_store_nodes", "Nodes that share the limits, this one included.", store.nodes
    )


def _reloads(facts: Facts) -> Iterator[Family]:
    yield GaugeMetricFamily(
        "ratelimitd_config_last_reload_successful",
        "Whether the last configuration read was taken.",
        facts.reload_successful,
    )
    yield GaugeMetricFamily(
        "ratelimitd_config_last_reload_success_timestamp_seconds",
        "When the configuration in force was taken.",
        facts.reload_success_at_s,
    )
    reloads = CounterMetricFamily(
        "ratelimitd_config_reloads_total", "Reloads, by what became of them.", labels=["result"]
    )
    for result, count in facts.reloads:
        reloads.add_metric([result], count)
    yield reloads


def _by_label(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values:
        family.add_metric([value], number)
    return family
