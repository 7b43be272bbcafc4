"""What the daemon knows of itself, and the admin pages for machines: metrics, alive, ready."""

from __future__ import annotations

import dataclasses
import enum
import time
from typing import TYPE_CHECKING

import ratelimitd
from ratelimitd.control.admin import Page, Response
from ratelimitd.control.metrics import DaemonCollector, Exposition, Facts
from ratelimitd.segment import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.control.access_log import AccessLogWriter
    from ratelimitd.control.admin_request import Request
    from ratelimitd.control.census import Census
    from ratelimitd.control.pressure import Sampler
    from ratelimitd.control.store_report import StoreReport
    from ratelimitd.control.upstream_states import UpstreamStates
    from ratelimitd.control.workers import Workers
    from ratelimitd.segment.memory import Segment
    from ratelimitd.segment.pages import Page as CounterPage


class State(enum.Enum):
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


@dataclasses.dataclass
class Status:
    """Written by the supervisor, shown to the operator."""

    state: State = State.STARTING
    started_at_s: float = dataclasses.field(default_factory=time.time)
    config_path: str = ""
    listen: tuple[str, ...] = ()
    admin: tuple[str, ...] = ()
    reload_refusal: str = ""  # why the last one was refused; empty when it was taken
    reload_success_at_s: float = dataclasses.field(default_factory=time.time)
    reloads: dict[str, int] = dataclasses.field(default_factory=lambda: {"success": 0, "refused": 0})


class Views:
    """The pages of the admin server."""

    def __init__(
        self,
        status: Status,
        segment: Segment,
        workers: Workers,
        census: Census,
        access_log: AccessLogWriter,
        sampler: Sampler,
        upstreams: UpstreamStates,
        store: Callable[[], StoreReport],
    ) -> None:
        self._status = status
        self._segment = segment
        self._workers = workers
        self._census = census
        self._access_log = access_log
        self._sampler = sampler
        self._upstreams = upstreams
        self.store = store
        self._exposition = Exposition(DaemonCollector(segment.registry, self.all_pages, self._facts))

    def pages(self) -> dict[str, Page]:
        return {
            "/metrics": Page(self._metrics),
            "/healthz": Page(self._healthz),
            "/readyz": Page(self._readyz),
        }

    async def _metrics(self, request: Request) -> Response:
        body, content_type = self._exposition.render(request.headers.get("accept", ""))
        return Response(200, body, content_type)

    async def _healthz(self, _: Request) -> Response:
        """Alive: that this is answered at all."""
        return Response.text(200, "ok")

    async def _readyz(self, _: Request) -> Response:
        """Ready: new requests may be sent here."""
        if self._status.state is not State.SERVING:
            return Response.text(503, f"not ready: {self._status.state.value}")
        if not self._workers.serving():
            return Response.text(503, "not ready: no worker accepts connections")
        if not self._upstreams.any_up():
            return Response.text(503, "not ready: health checks say that every web server is down")
        return Response.text(200, "ready")

    def all_pages(self) -> list[CounterPage]:
        own = [self._segment.page(layout.BASE_PAGE), self._segment.page(layout.SUPERVISOR_PAGE)]
        return own + [page for _, page in self._workers.pages()]

    def _facts(self) -> Facts:
        shed = self._sampler.report()
        return Facts(
            version=ratelimitd.__version__,
            workers=self._workers.serving(),
            worker_restarts=self._workers.restarts,
            lag_us=tuple(sorted((index, page.lag_us) for index, page in self._workers.pages())),
            shed_level=shed.level,
            busy=shed.busy,
            table_entries=self._census.entries,
            table_evictions=self._segment.word(layout.EVICT) + self._segment.word(layout.EVICT_HARD),
            limit_keys=tuple(self.limit_keys().items()),
            log_lines_dropped=self._access_log.dropped,
            reload_successful=not self._status.reload_refusal,
            reload_success_at_s=self._status.reload_success_at_s,
            reloads=tuple(self._status.reloads.items()),
            store=self.store(),
            servers_up=tuple((name, state.up) for name, state in self._upstreams.all()),
        )

    def totals(self, metric: str, label: int) -> dict[str, int]:
        """The sums of a metric by one of its labels, the one at index `label`."""
        pages = self.all_pages()
        sums: dict[str, int] = {}
        for series in self._segment.registry.all_series():
            if series.metric == metric:
                name = series.labels[label]
                sums[name] = sums.get(name, 0) + sum(page.slots[series.slot] for page in pages)
        return sums

    def server_totals(self, metric: str) -> dict[tuple[str, str], int]:
        """The sums of a metric by upstream and server."""
        pages = self.all_pages()
        sums: dict[tuple[str, str], int] = {}
        for series in self._segment.registry.all_series():
            if series.metric == metric:
                name = series.labels[0], series.labels[1]
                sums[name] = sums.get(name, 0) + sum(page.slots[series.slot] for page in pages)
        return sums

    def limit_keys(self) -> dict[str, int]:
        """Keys of each limit. One has an entry for each window of its limit: the fullest window counts."""
        keys: dict[str, int] = {}
        for (name, _), limit_id in self._segment.registry.limits().items():
            keys[name] = max(keys.get(name, 0), self._census.by_limit.get(limit_id, 0))
        return keys
