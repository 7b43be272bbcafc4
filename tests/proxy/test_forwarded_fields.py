"""What the web server is told about the client, from trusted proxies and from anybody else.

Trusted is 127.0.0.2; a client that comes from 127.0.0.1 is not, whatever it writes.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import Recording, answer_ok, fields, values
from tests.proxy.talking import Answer, Client, get

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 1m}}
clients: {trusted_proxies: [127.0.0.2], allow: [127.0.0.77, 192.0.2.77], deny: [127.0.0.66, 192.0.2.66]}
limits:
  - {name: per-client, per: client, rate: 1/1d, match: {path: /once}}
  - {name: keys, per: "header:X-Api-Key", rate: 10k/1s}
"""

ANYBODY, PROXY = "127.0.0.1", "127.0.0.2"
SPOOFED = [
    "X-Forwarded-For: 192.0.2.1", "x-forwarded-for: 192.0.2.2", "X-Forwarded-Proto: https",
    "X-Forwarded-Host: evil.example", "Forwarded: for=192.0.2.3",
]  # fmt: skip


def ask(daemon: Daemon, source: str, *lines: str, target: str = "/") -> Answer:
    with Client(daemon.port, source) as client:
        return client.ask(get(target, *lines))


def told(upstream: Recording, name: str) -> list[str]:
    return values(upstream.requests[-1], name)


def test_nothing_that_anybody_says_is_passed_on(daemon: Daemon, upstream: Recording) -> None:
    ask(daemon, ANYBODY, *SPOOFED, "X-Request-ID: mine")
    assert told(upstream, "x-forwarded-for") == [ANYBODY]
    assert told(upstream, "x-forwarded-proto") == ["http"]
    assert told(upstream, "x-forwarded-host") == ["a.example"]
    assert told(upstream, "forwarded") == []
    (request_id,) = told(upstream, "x-request-id")
    assert re.fullmatch(r"[0-9a-f]{32}", request_id)


def test_a_trusted_proxy_is_believed_and_its_list_is_extended(daemon: Daemon, upstream: Recording) -> None:
    ask(daemon, PROXY, *SPOOFED, "X-Request-ID: theirs")
    assert told(upstream, "x-forwarded-for") == [f"192.0.2.1, 192.0.2.2, {PROXY}"]
    assert told(upstream, "x-forwarded-proto") == ["https"]
    assert told(upstream, "x-forwarded-host") == ["evil.example"]
    assert told(upstream, "forwarded") == []
    assert told(upstream, "x-request-id") == ["theirs"]


def test_a_trusted_proxy_that_says_nothing(daemon: Daemon, upstream: Recording) -> None:
    ask(daemon, PROXY)
    assert told(upstream, "x-forwarded-for") == [PROXY]
    assert told(upstream, "x-forwarded-proto") == ["http"]
    assert told(upstream, "x-forwarded-host") == ["a.example"]
    assert len(told(upstream, "x-request-id")) == 1


def test_a_request_id_is_one(daemon: Daemon, upstream: Recording) -> None:
    ask(daemon, PROXY, "X-Request-ID: a", "x-request-id: b")
    assert told(upstream, "x-request-id") == ["a"]
    ask(daemon, PROXY, "X-Request-ID: a", "Connection: x-request-id")
    (request_id,) = told(upstream, "x-request-id")
    assert re.fullmatch(r"[0-9a-f]{32}", request_id)
    seen = set()
    with Client(daemon.port) as client:
        for _ in range(200):
            client.ask(get())
            seen.update(told(upstream, "x-request-id"))
    assert len(seen) == 200


@pytest.mark.parametrize("source", [ANYBODY, PROXY])
@pytest.mark.parametrize(
    "name",
    ["X_Forwarded_For", "x-forwarded_for", "X_Forwarded_Proto", "X_FORWARDED_HOST", "X_Request_ID",
     "X-Api_Key", "Content_Length", "Transfer_Encoding", "RateLimit_Policy"],
)  # fmt: skip
def test_counterfeits_are_removed(daemon: Daemon, upstream: Recording, source: str, name: str) -> None:
    ask(daemon, source, f"{name}: 192.0.2.1", "X_Other: kept")
    names = [other for other, _ in fields(upstream.requests[-1])]
    assert name.lower() not in names
    assert "x_other" in names


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-ID", "Host"]
)
def test_connection_takes_nothing_of_it_away(daemon: Daemon, upstream: Recording, name: str) -> None:
    for source in (ANYBODY, PROXY):
        ask(daemon, source, f"Connection: close, {name}", *SPOOFED)
        assert len(told(upstream, name.lower())) == 1


def test_the_walk_skips_trusted_proxies_from_the_right(daemon: Daemon, upstream: Recording) -> None:
    def count(source: str, *lines: str) -> int:
        return ask(daemon, source, *lines, target="/once").status

    upstream.script = answer_ok
    assert count(PROXY, "X-Forwarded-For: 192.0.2.10") == 200
    assert count(PROXY, "X-Forwarded-For: 192.0.2.10") == 429
    assert count(PROXY, "X-Forwarded-For: 192.0.2.99, 192.0.2.10") == 429
    assert count(PROXY, "X-Forwarded-For: 192.0.2.99, ::ffff:192.0.2.10, 127.0.0.2") == 429
    assert count(PROXY, "X-Forwarded-For: 192.0.2.99", "X-Forwarded-For: 192.0.2.10:99") == 429
    assert count(PROXY, "X-Forwarded-For: 192.0.2.99") == 200  # was never charged to anybody else
    assert count(ANYBODY, "X-Forwarded-For: 192.0.2.10") == 200  # not believed: that is 127.0.0.1
    assert count(ANYBODY, "X-Forwarded-For: 192.0.2.11", "Forwarded: for=192.0.2.11") == 429
    assert count(PROXY, "X-Forwarded-For: 2001:db8::1") == 200
    assert count(PROXY, "X-Forwarded-For: 2001:db8::ffff") == 429
    assert count(PROXY, "X-Forwarded-For: 2001:db8:0:1::1") == 200
    assert count(PROXY, "X-Forwarded-For: 192.0.2.12, unknown") == 200  # that is the proxy itself
    assert count(PROXY, "X-Forwarded-For: 192.0.2.13, rubbish") == 429


def test_one_connection_of_a_proxy_carries_many_clients(daemon: Daemon, upstream: Recording) -> None:
    assert upstream.received == b""
    with Client(daemon.port, PROXY) as client:
        for expected in (200, 429):
            for n in range(20, 25):
                assert client.ask(get("/once", f"X-Forwarded-For: 192.0.2.{n}")).status == expected


def test_allowed_clients_are_never_limited(daemon: Daemon, upstream: Recording) -> None:
    for _ in range(3):
        answer = ask(daemon, "127.0.0.77", target="/once")
        assert (answer.status, answer.values("ratelimit")) == (200, [])
        assert ask(daemon, PROXY, "X-Forwarded-For: 192.0.2.77", target="/once").status == 200
    assert len(upstream.requests) == 6


def test_denied_clients_get_nothing_through(daemon: Daemon, upstream: Recording) -> None:
    before = daemon.settled_metrics().total("ratelimitd_requests_total", outcome="denied")
    assert ask(daemon, "127.0.0.66").status == 403
    assert ask(daemon, PROXY, "X-Forwarded-For: 192.0.2.66").status == 403
    assert ask(daemon, PROXY, "X-Forwarded-For: ::ffff:192.0.2.66").status == 403
    assert ask(daemon, ANYBODY, "X-Forwarded-For: 192.0.2.66").status == 200
    assert len(upstream.requests) == 1
    assert daemon.settled_metrics().total("ratelimitd_requests_total", outcome="denied") == before + 3


@pytest.mark.parametrize("mode", ["forwarded", "both", "none"])
def test_other_fields_by_configuration(recording: Recording, tmp_path: Path, mode: str) -> None:
    recording.clear()
    configuration = tmp_path / "ratelimitd.yaml"
    configuration.write_text(
        f"workers: 1\nupstreams: {{web: {{servers: [{recording.url}]}}}}\n"
        f"clients: {{trusted_proxies: [{PROXY}], header: forwarded}}\n"
        f"headers: {{forwarded: {mode}, request_id: none, via: true}}\n"
    )
    daemon = Daemon(tmp_path, ["-c", str(configuration)])
    try:
        daemon.wait_ready()
        for source, before in ((ANYBODY, ""), (PROXY, "for=192.0.2.3, ")):
            ask(daemon, source, *SPOOFED, "X_Request_ID: kept", "For_warded: kept")
            element = f'for={source};proto=http;host="a.example"'
            assert told(recording, "forwarded") == ([] if mode == "none" else [before + element])
            assert told(recording, "x-forwarded-for") == ([source] if mode == "both" else [])
            assert told(recording, "via") == ["1.1 ratelimitd"]
            assert told(recording, "x-request-id") == []
        daemon.finish()
    finally:
        daemon.stop()
