"""Each row of the table through `explain` and through the running daemon: both say what the table says.

`explain` knows limits, keys and costs and no counts, so here a few lines count for it; the daemon is asked
for the row's requests, after a reload that puts its configuration in force.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import pytest

from ratelimitd.config import load, units
from ratelimitd.config.model import Config
from ratelimitd.control.answers import ReloadAnswer
from ratelimitd.tools.explain import Explained, LimitPart, Question, explain
from tests.control.admin_client import ask
from tests.daemon import Daemon
from tests.decisions.table import Row, Step, numbers, rows
from tests.proxy.talking import Client
from tests.servers import Nginx

ROWS = list(rows())


def named(row: Row) -> str:
    return f"{row.rule}: {row.about}"


def test_there_are_enough() -> None:
    assert len(ROWS) > 200
    assert len({named(row) for row in ROWS}) == len(ROWS)


# --- explain


class Counting:
    """Counts what `explain` says of requests, and so knows what becomes of the next one."""

    def __init__(self, config: Config) -> None:
        self._bans = {limit.name: limit.ban for limit in config.limits}
        self._used: Counter[tuple[str, str, str]] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()

    def outcomes(self, explained: Explained) -> set[tuple[int, str]]:
        """The possible (status, deciding limit); several when more than one limit is used up."""
        if explained.status:
            return {(explained.status, explained.limits[-1].name if explained.limits else "")}
        applying = [limit for limit in explained.limits if limit.applies]
        deciding = [limit for limit in applying if limit.action == "reject"]
        banned = {(403, limit.name) for limit in deciding if self._is_banned(limit)}
        over = {(429, limit.name) for limit in deciding if self._is_over(limit)}
        if not banned and not over:
            for limit in applying:
                self._used.update({(limit.name, rate, limit.key): limit.cost for rate in limit.rates})
        return banned or over or {(200, "")}

    def note(self, explained: Explained, step: Step) -> None:
        """A refusal of `step`'s limit brings its key nearer to a ban."""
        if step.status == 429:
            self._refused.update(
                {(limit.name, limit.key): 1 for limit in explained.limits if limit.name == step.limit}
            )

    def _is_banned(self, limit: LimitPart) -> bool:
        ban = self._bans[limit.name]
        return ban is not None and self._refused[limit.name, limit.key] >= ban.after

    def _is_over(self, limit: LimitPart) -> bool:
        return any(
            self._used[limit.name, rate, limit.key] + limit.cost > units.rate(rate).count
            for rate in limit.rates
        )


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_what_is_explained(row: Row, tmp_path: Path) -> None:
    path = tmp_path / "row.yaml"
    path.write_text(row.written("http://127.0.0.1:9", next(numbers)))
    config = load.load_file(str(path), {}).config
    counting = Counting(config)
    for number, step in enumerate(row.steps, 1):
        explained = explain(config, step.question)
        possible = counting.outcomes(explained)
        if step.limit:
            assert (step.status, step.limit) in possible, (number, step, explained)
        else:
            assert {status for status, _ in possible} == {step.status}, (number, step, explained)
        counting.note(explained, step)
        if row.route:
            assert explained.route is not None
            assert (explained.route.number, explained.route.upstream, explained.route.priority) == row.route


# --- the daemon


def configuration(row: Row, socket: Path, url: str) -> str:
    return json.dumps(json.loads(row.written(url, next(numbers))) | {"admin": {"socket": str(socket)}})


class Table:
    """A daemon that takes the configuration of one row after another."""

    def __init__(self, daemon: Daemon, file: Path, socket: Path, url: str) -> None:
        self._daemon = daemon
        self.file = file
        self._socket = socket
        self._url = url

    @classmethod
    def serve(cls, url: str, directory: Path, workers: int = 1) -> Iterator[Self]:
        """For fixtures."""
        file, socket = directory / "ratelimitd.yaml", directory / "admin.sock"
        file.write_text(configuration(ROWS[0], socket, url))
        daemon = Daemon(directory, ["-c", str(file)], workers=workers)
        try:
            daemon.wait_ready()
            yield cls(daemon, file, socket, url)
            daemon.finish()
        finally:
            daemon.stop()

    @property
    def port(self) -> int:
        return self._daemon.port

    def use(self, row: Row) -> None:
        self.file.write_text(configuration(row, self._socket, self._url))
        answer = msgspec.json.decode(ask(self._socket, "POST", "/api/reload")[2], type=ReloadAnswer)
        assert answer.result == "success", answer

    def answers_of(self, upstream: str) -> float:
        return self._daemon.settled_metrics().total("ratelimitd_upstream_requests_total", upstream=upstream)

    def ask(self, question: Question) -> tuple[int, str]:
        """Status, and the limit that the answer names."""
        fields = [*question.fields, "Accept: application/problem+json"]
        if not any(field.lower().startswith("host:") for field in fields):
            fields.append("Host: localhost")
        head = "\r\n".join([f"{question.line} HTTP/1.1", *fields, "", ""])
        with Client(self._daemon.port, question.peer) as client:
            answer = client.ask(head.encode(), head_only=question.line.startswith("HEAD "))
        if answer.values("content-type") == ["application/problem+json"] and answer.body:
            return answer.status, json.loads(answer.body).get("limit", "")
        return answer.status, ""


@pytest.fixture(scope="module")
def table(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    yield from Table.serve(nginx.url, tmp_path_factory.mktemp("table"))


@pytest.mark.xdist_group("decisions")
@pytest.mark.parametrize("row", ROWS, ids=named)
def test_what_the_daemon_does(row: Row, table: Table) -> None:
    table.use(row)
    upstream = row.route[1] if row.route else ""
    before = table.answers_of(upstream) if upstream else 0
    for number, step in enumerate(row.steps, 1):
        status, limit = table.ask(step.question)
        assert status == step.status, (number, step)
        if limit and step.limit:
            assert limit == step.limit, (number, step)
    if upstream:
        assert table.answers_of(upstream) == before + len(row.steps)
