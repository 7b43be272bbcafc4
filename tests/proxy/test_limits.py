"""Limits through a running daemon: who is counted by what, what a refused client is told, what passes."""

from __future__ import annotations

import json
import re

import pytest

from tests.daemon import Daemon
from tests.http.test_matching import LOGIN_SPELLINGS
from tests.proxy.recording import Recording, answering
from tests.proxy.talking import Answer, Client, get
from tests.servers import wait_until

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 1m}}
clients: {trusted_proxies: [127.0.0.2]}
routes:
  - {match: {path: /nowhere/*, method: [DELETE]}, upstream: web}
  - {match: {host: ["*.example", "other"]}, upstream: web}
limits:
  - {name: login, per: client, rate: 1/1d, match: {path: /login}}
  - {name: api, per: global, rate: 2/1d, match: {path: /api/*, method: [GET]}}
  - {name: plan, per: client, rate: 1/1d, match: {header: {X-Plan: "free*"}, path: /plan}}
  - {name: key, per: "header:X-Api-Key", missing: client, rate: 1/1d, match: {path: /key}}
  - {name: skip, per: "header:X-Api-Key", missing: skip, rate: 1/1d, match: {path: /skip}}
  - {name: deny, per: "header:X-Api-Key", missing: deny, rate: 1/1d, match: {path: /deny}}
  - {name: smooth, per: client, rate: [2/100ms, 3/1d], match: {path: /smooth}}
  - {name: watched, per: client, rate: 1/1d, action: observe, match: {path: /watched}}
  - {name: heavy, per: client, cost: 3, rate: 8/1h, match: {path: /heavy}}
  - {name: wide, per: client, rate: 100/10s, match: {path: /wide}}
  - {name: narrow, per: client, rate: 10/10s, match: {path: /wide}}
"""

_clients = iter(range(1, 255))


def fresh() -> str:
    """A line that makes the request one of a client that was never seen."""
    return f"X-Forwarded-For: 198.51.100.{next(_clients)}"


def ask(daemon: Daemon, target: str, *lines: str, method: str = "GET") -> Answer:
    with Client(daemon.port, "127.0.0.2") as client:
        return client.ask(get(target, *lines, method=method), head_only=method == "HEAD")


def decisions(daemon: Daemon, limit: str) -> dict[str, float]:
    metrics = daemon.settled_metrics()
    return {
        decision: metrics.total("ratelimitd_limit_decisions_total", limit=limit, decision=decision)
        for decision in ("allowed", "limited", "observed")
    }


@pytest.mark.parametrize("spelling", LOGIN_SPELLINGS)
def test_no_spelling_gets_around_a_limit(daemon: Daemon, upstream: Recording, spelling: bytes) -> None:
    client = fresh()
    assert ask(daemon, "/login", client).status == 200
    assert ask(daemon, spelling.decode("ascii"), client).status == 429
    assert len(upstream.requests) == 1
    other = fresh()
    assert ask(daemon, spelling.decode("ascii"), other).status == 200
    assert ask(daemon, "http://a.example/LOGIN", other).status == 429
    # what is forwarded are the client's own bytes
    assert upstream.requests[1].split(b" ")[1] == spelling


def test_every_method_counts(daemon: Daemon, upstream: Recording) -> None:
    client = fresh()
    assert ask(daemon, "/login", client, method="OPTIONS").status == 200
    assert ask(daemon, "/login", client, method="HEAD").status == 429
    assert ask(daemon, "/login", client, "X-HTTP-Method-Override: PUT", method="POST").status == 429
    assert len(upstream.requests) == 1


def test_what_a_refused_client_is_told(daemon: Daemon, upstream: Recording) -> None:
    client = fresh()
    ask(daemon, "/login", client)
    for accept, content_type in (
        ("application/json", "application/problem+json"),
        ("*/*", "application/problem+json"),
        ("text/html,*/*;q=0.8", "text/plain; charset=utf-8"),
    ):
        answer = ask(daemon, "/login", client, f"Accept: {accept}")
        assert (answer.status, answer["content-type"]) == (429, content_type)
        assert 86_000 < int(answer["retry-after"]) <= 90_000
        assert answer["ratelimit-policy"] == '"login";q=1;w=86400'
        assert answer["ratelimit"] == f'"login";r=0;t={answer["retry-after"]}'
        assert not answer.closes
        if "json" in content_type:
            problem = json.loads(answer.body)
            assert (problem["limit"], problem["status"]) == ("login", 429)
        else:
            assert answer.body.startswith(b"429 ")
    assert ask(daemon, "/login", client, method="HEAD")["content-length"] != "0"
    assert len(upstream.requests) == 1


def test_admitted_answers_tell_of_the_tightest_limit(daemon: Daemon, upstream: Recording) -> None:
    client = fresh()
    answer = ask(daemon, "/wide", client)
    assert answer["ratelimit-policy"] == '"narrow";q=10;w=10'
    assert re.fullmatch(r'"narrow";r=9;t=\d+', answer["ratelimit"])
    assert ask(daemon, "/other", client).values("ratelimit") == []
    assert ask(daemon, "/api/x", client).values("ratelimit") == []  # nobody's own
    theirs = b'HTTP/1.1 200 OK\r\nRateLimit: "theirs";r=1\r\nContent-Length: 0\r\n\r\n'
    upstream.script = answering(theirs)
    answer = ask(daemon, "/wide", client)
    assert answer.values("ratelimit") == ['"theirs";r=1']
    assert answer.values("ratelimit-policy") == []


def test_a_global_limit_is_everybodys(daemon: Daemon, upstream: Recording) -> None:
    statuses = [ask(daemon, f"/api/{n}", fresh()).status for n in range(5)]
    assert sorted(statuses, reverse=True)[:3] == [429, 429, 429]
    answer = ask(daemon, "/api", fresh())
    assert answer["ratelimit-policy"] == '"api";q=2;w=86400'
    assert ask(daemon, "/api", fresh(), method="POST").status == 200
    assert ask(daemon, "/apis", fresh()).status == 200
    assert len(upstream.requests) <= 4


def test_a_match_by_header(daemon: Daemon, upstream: Recording) -> None:
    client = fresh()
    assert [ask(daemon, "/plan", client, "X-Plan: gold").status for _ in range(3)] == [200] * 3
    assert [ask(daemon, "/plan", client, "X-Plan: freemium").status for _ in range(3)] == [200, 429, 429]
    assert len(upstream.requests) == 4


def test_keys_of_a_header(daemon: Daemon, upstream: Recording) -> None:
    client, key = fresh(), "X-Api-Key: a"
    assert ask(daemon, "/key", client, key).status == 200
    assert ask(daemon, "/key", fresh(), key).status == 429  # whoever brings it
    assert ask(daemon, "/key", client, "x-api-key: \t a ").status == 429
    assert ask(daemon, "/key", client, "X-Api-Key: A").status == 200  # values have a case
    assert ask(daemon, "/key", client, "X-Api-Key: a\xe9").status == 200
    assert ask(daemon, "/key", client, "X-Api-Key: " + "k" * 5_000).status == 200
    assert ask(daemon, "/key", client, "X-Api-Key: " + "k" * 5_000).status == 429
    assert ask(daemon, "/key", client, "X_Api_Key: b", key).status == 429
    assert len(upstream.requests) == 4


@pytest.mark.parametrize("lines", [[], ["X-Api-Key:"], ["X-Api-Key: \t "], ["X_Api_Key: b"]])
def test_what_stands_in_for_a_missing_key(daemon: Daemon, upstream: Recording, lines: list[str]) -> None:
    client = fresh()
    assert [ask(daemon, "/key", client, *lines).status for _ in range(3)] == [200, 429, 429]
    assert ask(daemon, "/key", fresh(), *lines).status == 200
    assert [ask(daemon, "/skip", client, *lines).status for _ in range(3)] == [200] * 3
    answer = ask(daemon, "/deny", client, *lines)
    assert (answer.status, answer.closes) == (403, False)
    assert json.loads(answer.body)["limit"] == "deny"
    assert len(upstream.requests) == 5


def test_a_key_that_occurs_twice_is_400(daemon: Daemon, upstream: Recording) -> None:
    for path in ("/key", "/skip", "/deny"):
        answer = ask(daemon, path, fresh(), "X-Api-Key: a", "x-api-key: a")
        assert (answer.status, answer.closes) == (400, True)
    assert ask(daemon, "/other", "X-Api-Key: a", "X-Api-Key: b").status == 200
    assert len(upstream.requests) == 1


def test_several_rates_must_all_hold(daemon: Daemon, upstream: Recording) -> None:
    client = fresh()
    assert [ask(daemon, "/smooth", client).status for _ in range(2)] == [200, 200]
    wait_until(lambda: ask(daemon, "/smooth", client).status == 200, "the burst is over")
    assert len(upstream.requests) == 3
    assert ask(daemon, "/smooth", client)["ratelimit-policy"] == '"smooth/1d";q=3;w=86400'


def test_observed_limits_refuse_nobody(daemon: Daemon, upstream: Recording) -> None:
    client = fresh()
    before = decisions(daemon, "watched")
    for _ in range(4):
        answer = ask(daemon, "/watched", client)
        assert (answer.status, answer.values("ratelimit")) == (200, [])
    after = decisions(daemon, "watched")
    assert {name: after[name] - before[name] for name in after} == {"allowed": 1, "limited": 0, "observed": 3}
    assert len(upstream.requests) == 4


def test_costs(daemon: Daemon, upstream: Recording) -> None:
    client = fresh()
    answers = [ask(daemon, "/heavy", client) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert re.match('"heavy";r=2;', answers[1]["ratelimit"])
    assert len(upstream.requests) == 2


def test_decisions_are_counted_once(daemon: Daemon, upstream: Recording) -> None:
    client = fresh()
    before = decisions(daemon, "login"), decisions(daemon, "smooth")
    for _ in range(3):
        ask(daemon, "/login", client)
    ask(daemon, "/smooth", client)
    after = decisions(daemon, "login"), decisions(daemon, "smooth")
    changes = [{name: new[name] - old[name] for name in new} for old, new in zip(before, after, strict=True)]
    assert changes == [
        {"allowed": 1, "limited": 2, "observed": 0},
        {"allowed": 1, "limited": 0, "observed": 0},  # a limit of two rates decides once
    ]
    assert len(upstream.requests) == 2


def test_routes(daemon: Daemon, upstream: Recording) -> None:
    with Client(daemon.port) as client:
        for host, status in (("a.EXAMPLE:80", 200), ("other.", 200), ("example", 404), ("another", 404)):
            answer = client.ask(get("/x").replace(b"a.example", host.encode()))
            assert (answer.status, answer.closes) == (status, False)
        delete = get("/nowhere/x", method="DELETE").replace(b"a.example", b"another")
        assert client.ask(delete).status == 200
        assert client.ask(delete.replace(b"nowhere", b"NOWHERE")).status == 404
        assert client.ask(delete.replace(b"/nowhere/x", b"/x/../nowhere")).status == 200
    assert len(upstream.requests) == 4
