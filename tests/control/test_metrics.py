"""From slots to samples: sums over pages, cumulative buckets, seconds, and totals that never go back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ratelimitd.control import catalogue
from ratelimitd.control.metrics import DaemonCollector, Exposition, Facts
from ratelimitd.control.store_report import no_store
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment
from ratelimitd.segment.pages import fold
from ratelimitd.segment.series import METRICS, Kind
from tests.control.daemon import config

FACTS = Facts(
    version="1",
    workers=3,
    worker_restarts=0,
    lag_us=(),
    shed_level=0.0,
    busy=None,
    table_entries=0,
    table_evictions=0,
    limit_keys=(("per-client", 7),),
    log_lines_dropped=0,
    reload_successful=True,
    reload_success_at_s=1.0,
    reloads=(("success", 0),),
    store=no_store(),
    servers_up=((("web", "http://127.0.0.1:9"), False),),
)
WORKER_PAGES = range(layout.FIRST_WORKER_PAGE, 5)


class Daemon:
    """A segment with three workers' pages, and what a scrape of it shows."""

    def __init__(self) -> None:
        self.segment = Segment.create(entries=100, pages=5)
        catalogue.register(config(), self.segment.registry)
        pages = [self.segment.page(index) for index in range(5)]
        self.pages = pages
        self._exposition = Exposition(DaemonCollector(self.segment.registry, lambda: pages, lambda: FACTS))

    def scrape(self) -> dict[tuple[str, ...], float]:
        text = self._exposition.render("")[0].decode()
        return {
            (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def test_a_histogram_is_cumulative_and_in_seconds() -> None:
    daemon = Daemon()
    slot = daemon.segment.registry.series("ratelimitd_overhead_seconds", ())
    metric = METRICS["ratelimitd_overhead_seconds"]
    daemon.pages[2].slots[slot] = 2  # up to the first bound
    daemon.pages[3].slots[slot + 1] = 3
    daemon.pages[4].slots[slot + len(metric.bounds_us)] = 1  # above the last
    daemon.pages[4].slots[slot + metric.width - 1] = 1_500_000
    samples = daemon.scrape()
    assert samples["ratelimitd_overhead_seconds_bucket", "le=1e-05"] == 2
    assert samples["ratelimitd_overhead_seconds_bucket", "le=2.5e-05"] == 5
    assert samples["ratelimitd_overhead_seconds_bucket", "le=0.25"] == 5
    assert samples["ratelimitd_overhead_seconds_bucket", "le=+Inf"] == 6
    assert samples["ratelimitd_overhead_seconds_count",] == 6
    assert samples["ratelimitd_overhead_seconds_sum",] == 1.5


def test_gauges_are_summed_over_workers() -> None:
    daemon = Daemon()
    slot = daemon.segment.registry.series("ratelimitd_connections", ("127.0.0.1:0", "active"))
    daemon.pages[2].slots[slot], daemon.pages[3].slots[slot] = 4, 5
    samples = daemon.scrape()
    assert samples["ratelimitd_connections", "listener=127.0.0.1:0", "state=active"] == 9
    assert samples["ratelimitd_limit_keys", "limit=per-client"] == 7


@settings(max_examples=20)
@given(
    events=st.lists(
        st.one_of(
            st.tuples(st.just("count"), st.sampled_from(WORKER_PAGES), st.integers(0, 10**6)),
            st.tuples(st.just("die"), st.sampled_from(WORKER_PAGES), st.just(0)),
        ),
        max_size=12,
    )
)
def test_no_counter_goes_back_whoever_dies(events: list[tuple[str, int, int]]) -> None:
    daemon = Daemon()
    series = daemon.segment.registry.all_series()
    before = daemon.scrape()
    for event, index, choice in events:
        if event == "die":
            fold(daemon.pages[index], daemon.pages[layout.BASE_PAGE], series)
        else:
            entry = series[choice % len(series)]
            daemon.pages[index].slots[entry.slot + choice % entry.width] += 1
        after = daemon.scrape()
        for key, value in before.items():
            is_gauge = key[0] in METRICS and METRICS[key[0]].kind is Kind.GAUGE
            assert is_gauge or after[key] >= value, key
        before = after
    daemon.segment.close()
