"""The JSON pages of the admin server: what there is to know of the daemon, and what may be asked of it.

Answers are the types of `answers`; a refusal has `error`. What is asked for wrongly is 400, a key or limit
that does not exist 404, a reload that was refused 409.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING, Final, Literal

import ratelimitd
from ratelimitd.config import units
from ratelimitd.control import answers
from ratelimitd.control.admin import Page, Response
from ratelimitd.control.admin_request import Refused
from ratelimitd.control.journal import rfc3339
from ratelimitd.control.status import State
from ratelimitd.segment import layout

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from ratelimitd.config.model import Limit
    from ratelimitd.control.admin_request import Request
    from ratelimitd.control.census import Census
    from ratelimitd.control.changes import Changes
    from ratelimitd.control.journal import Journal
    from ratelimitd.control.keyring import Key, Keyring
    from ratelimitd.control.pressure import Sampler
    from ratelimitd.control.reload import Reloader
    from ratelimitd.control.status import Status, Views
    from ratelimitd.control.store_report import StoreReport
    from ratelimitd.control.upstream_states import UpstreamStates
    from ratelimitd.control.workers import Workers
    from ratelimitd.segment.memory import Segment

BAN_MS: Final = 600_000
_TOP: Final = 20
_MOST_TOP: Final = 1_000


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the pages show and ask; `drain` is what a TERM calls."""

    status: Status
    segment: Segment
    workers: Workers
    census: Census
    views: Views
    keyring: Keyring
    journal: Journal
    reloader: Reloader
    drain: Callable[[], None]
    sampler: Sampler
    upstreams: UpstreamStates
    changes: Changes | None  # None: there is no fleet


class Api:
    """The pages of one daemon."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def pages(self) -> dict[str, Page]:
        return {
            "/api/status": Page(self._status),
            "/api/limits": Page(self._limits),
            "/api/top": Page(self._top),
            "/api/events": Page(self._events),
            "/api/keys": Page(self._keys),
            "/api/keys/show": Page(self._show),
            "/api/keys/reset": Page(self._reset, changes=True),
            "/api/keys/ban": Page(self._ban, changes=True),
            "/api/keys/unban": Page(self._unban, changes=True),
            "/api/reload": Page(self._reload, changes=True),
            "/api/drain": Page(self._drain, changes=True),
        }

    async def _status(self, request: Request) -> Response:
        request.allow()
        status, views = self._parts.status, self._parts.views
        shedding = self._parts.sampler.report()
        return _ok(
            answers.StatusAnswer(
                version=ratelimitd.__version__,
                pid=os.getpid(),
                state=status.state.value,
                started_at=_instant(status.started_at_s),
                uptime_s=int(time.time() - status.started_at_s),
                config=status.config_path,
                listen=status.listen,
                admin=status.admin,
                workers=self._workers(),
                reloads=answers.ReloadsAnswer(
                    status.reloads["success"],
                    status.reloads["refused"],
                    _instant(status.reload_success_at_s),
                    status.reload_refusal,
                ),
                table=self._table(),
                requests=views.totals("ratelimitd_requests_total", 1),
                connections=views.totals("ratelimitd_connections", 1),
                upstreams=self._upstreams(),
                shed_level=shedding.level,
                shedding=shedding,
                store=_store(views.store()),
                journal=self._parts.journal.place,
            )
        )

    def _workers(self) -> answers.WorkersAnswer:
        workers = self._parts.workers
        return answers.WorkersAnswer(
            workers.count,
            workers.serving(),
            workers.restarts,
            tuple(
                answers.WorkerAnswer(
                    worker.index, worker.process.pid, worker.life.value, worker.page.lag_us / 1e3
                )
                for worker in workers.all()
            ),
        )

    def _upstreams(self) -> tuple[answers.ServerAnswer, ...]:
        in_flight = self._parts.views.server_totals("ratelimitd_upstream_inflight")
        return tuple(
            answers.ServerAnswer(
                *name,
                "up" if state.up else "down",
                _instant(state.since_s) if state.since_s else "",
                in_flight.get(name, 0),
                state.error,
                _instant(state.error_at_s) if state.error_at_s else "",
            )
            for name, state in self._parts.upstreams.all()
        )

    def _table(self) -> answers.TableAnswer:
        word = self._parts.segment.word
        return answers.TableAnswer(
            word(layout.HEADER_ENTRIES),
            self._parts.census.entries,
            word(layout.EVICT) + word(layout.EVICT_HARD),
        )

    async def _limits(self, request: Request) -> Response:
        request.allow()
        keys = self._parts.views.limit_keys()
        decisions: dict[str, dict[str, int]] = {}
        pages = self._parts.views.all_pages()
        for series in self._parts.segment.registry.all_series():
            if series.metric == "ratelimitd_limit_decisions_total":
                limit, decision = series.labels
                total = sum(page.slots[series.slot] for page in pages)
                decisions.setdefault(limit, {})[decision] = total
        config = self._parts.reloader.config
        return _ok(
            answers.LimitsAnswer(
                tuple(
                    _limit(limit, keys.get(limit.name, 0), decisions.get(limit.name, {}))
                    for limit in config.limits
                )
            )
        )

    async def _top(self, request: Request) -> Response:
        request.allow("count")
        text = request.one("count") or str(_TOP)
        if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= _MOST_TOP):
            raise Refused(400, f"count is a number from 1 to {_MOST_TOP}, not {text!r}")
        return _ok(answers.TopAnswer(self._parts.keyring.top(int(text))))

    async def _events(self, request: Request) -> Response:
        request.allow("since")
        journal = self._parts.journal
        return _ok(answers.EventsAnswer(journal.since(since(request.one("since"))), journal.dropped))

    async def _keys(self, request: Request) -> Response:
        request.allow()
        listed = self._parts.keyring.list()
        counted = sum(self._parts.views.limit_keys().values())
        return _ok(answers.KeysAnswer(listed, max(0, counted - len(listed))))

    async def _show(self, request: Request) -> Response:
        keyring = self._parts.keyring
        found = self._find(request)
        return _ok(answers.KeysAnswer(tuple(keyring.look(key) for key in found), 0))

    async def _reset(self, request: Request) -> Response:
        found = self._find(request)
        changes = tuple(self._parts.keyring.reset(key) for key in found)
        return await self._changed("reset", changes)

    async def _ban(self, request: Request) -> Response:
        found = self._find(request, "for")
        text = request.one("for")
        try:
            for_ms = BAN_MS if text is None else units.duration_ms(text)
        except ValueError as error:
            raise Refused(400, f"for: {text!r} {error}; it is {units.DURATION}") from None
        try:
            changes = tuple(self._parts.keyring.ban(key, for_ms * 1000) for key in found)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        return await self._changed("ban", changes, f" for {units.format_duration(for_ms)}")

    async def _unban(self, request: Request) -> Response:
        found = self._find(request)
        changes = tuple(self._parts.keyring.unban(key) for key in found)
        return await self._changed("unban", changes)

    def _find(self, request: Request, *more: str) -> tuple[Key, ...]:
        request.allow("key", "limit", *more)
        texts = request.parameters.get("key", ())
        if not texts:
            raise Refused(400, "give a key: key=203.0.113.9, for several limits one with limit=NAME")
        try:
            return self._parts.keyring.find(texts, request.one("limit"))
        except ValueError as error:
            raise Refused(404, str(error)) from None

    async def _changed(
        self,
        changed: Literal["reset", "ban", "unban"],
        keys: tuple[answers.KeyChange, ...],
        how: str = "",
    ) -> Response:
        for change in keys:
            self._parts.journal.note(
                f"key_{changed}",
                f"an operator's {changed} of {change.key} in {change.limit}{how}",
                limit=change.limit,
                key=change.key,
            )
        if self._parts.changes is None:
            return _ok(answers.ChangedAnswer(changed, keys))
        spread = await self._parts.changes.settle()
        nodes = self._parts.views.store().nodes
        return _ok(answers.ChangedAnswer(changed, keys, spread.state, nodes, spread.why))

    async def _reload(self, request: Request) -> Response:
        request.allow()
        if self._parts.status.state is not State.SERVING:
            raise Refused(503, f"the daemon is {self._parts.status.state.value}")
        outcome = await self._parts.reloader.reload()
        if outcome.refusal:
            return Response.json(409, answers.ReloadAnswer("refused", reason=outcome.refusal))
        return _ok(answers.ReloadAnswer("success", outcome.changes, outcome.warnings))

    async def _drain(self, request: Request) -> Response:
        request.allow()
        if self._parts.status.state is not State.DRAINING:
            self._parts.drain()
        drain_ms = self._parts.reloader.config.timeouts.drain_ms
        return _ok(answers.DrainAnswer(State.DRAINING.value, drain_ms / 1000))


def since(text: str | None) -> str:
    """The instant that a request names: an event's own time, or how long ago; ValueError never."""
    if not text:
        return ""
    if "T" in text:
        return text
    try:
        return rfc3339(time.time_ns() // 1000 - units.duration_ms(text) * 1000)
    except ValueError:
        raise Refused(
            400,
            f"since is the time of an event such as {rfc3339(0)}, or a duration such as 10m, not {text!r}",
        ) from None


def _limit(limit: Limit, keys: int, decisions: dict[str, int]) -> answers.LimitAnswer:
    return answers.LimitAnswer(
        limit.name,
        limit.per,
        tuple(units.format_rate(rate) for rate in limit.rates),
        limit.concurrent,
        limit.action,
        keys,
        decisions,
    )


def _store(report: StoreReport) -> answers.StoreAnswer:
    return answers.StoreAnswer(
        report.state,
        report.url,
        _instant(report.since_s) if report.since_s else "",
        report.error,
        report.nodes,
        report.nodes_assumed,
        report.exceptions,
    )


def _ok(answer: msgspec.Struct) -> Response:
    return Response.json(200, answer)


def _instant(wall_s: float) -> str:
    return rfc3339(int(wall_s * 1e6))
