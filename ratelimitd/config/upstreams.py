"""The settings of an upstream: its web servers, how one is chosen, and what happens when one fails."""

from __future__ import annotations

from collections import abc as collections
from typing import Any

from ratelimitd.config import addresses, kinds, matching, model, units
from ratelimitd.config.certificates import SERVER_TLS
from ratelimitd.config.reader import SPREAD, Fields, ListOf, Section, Setting, Shorthand

_DAY_MS = 86_400_000

SERVER = Section(
    model.Server,
    (
        Setting(
            "url",
            kinds.text(
                addresses.SERVER,
                convert=addresses.server,
                editors=addresses.SERVER_PATTERN,
                write=lambda fields: fields["url"],
            ),
            "http://host:port, https://host:port or unix:/path.",
            field=SPREAD,
            required=True,
        ),
        Setting("weight", kinds.whole(1, 256), "Its share of the requests, relative to the other servers."),
        Setting("backup", kinds.truth(), "Used only while no other server is up."),
        Setting("max_connections", kinds.whole(0, 1_000_000), "Most connections to it at once; 0: no bound."),
    ),
)


def _health_check(values: dict[str, Any]) -> collections.Iterator[tuple[str, str]]:
    interval_ms = values.get("interval_ms", model.Health("/").interval_ms)
    timeout_ms = values.get("timeout_ms", model.Health("/").timeout_ms)
    if timeout_ms > interval_ms:
        interval = units.format_duration(interval_ms)
        yield "timeout", f"{units.format_duration(timeout_ms)} is longer than the interval, {interval}"


HEALTH = Section(
    model.Health,
    (
        Setting("path", matching.request_path(), "What is asked for; 2xx and 3xx are good.", required=True),
        Setting("interval", kinds.duration(100, _DAY_MS), "How often.", field="interval_ms"),
        Setting("timeout", kinds.duration(10, _DAY_MS), "How long an answer may take.", field="timeout_ms"),
        Setting("rise", kinds.whole(1, 100), "Good checks in a row until a server is up."),
        Setting("fall", kinds.whole(1, 100), "Bad checks in a row until it is down."),
    ),
    check=_health_check,
)

EJECT = Fields(
    model.Upstream,
    (
        Setting("failures", kinds.whole(1, 10_000), "Failures in a row.", field="eject_failures"),
        Setting("for", kinds.duration(100, _DAY_MS), "How long it gets no requests.", field="eject_for_ms"),
    ),
)

QUEUE = Fields(
    model.Upstream,
    (
        Setting("size", kinds.whole(0, 1_000_000), "Places for requests that wait.", field="queue_size"),
        Setting("wait", kinds.duration(0, 600_000), "How long one waits.", field="queue_wait_ms"),
    ),
)

RETRY = Fields(
    model.Upstream,
    (
        Setting(
            "attempts", kinds.whole(0, 10), "Further servers tried for a request.", field="retry_attempts"
        ),
        Setting("budget", kinds.share(), "Retries as a share of the requests.", field="retry_budget"),
    ),
)

UPSTREAM = Fields(
    model.Upstream,
    (
        Setting(
            "servers",
            ListOf(Shorthand(SERVER), unique=lambda server: server.url, noun="server"),
            "The web servers, each as a URL or as {url:, weight:, backup:, max_connections:}.",
            required=True,
        ),
        Setting(
            "balance", kinds.choice("least_requests", "round_robin", "client"), "How a server is chosen."
        ),
        Setting("health", HEALTH, "Active checks of each server.", example={"path": "/healthz"}),
        Setting("eject", EJECT, "A server that fails is left out for a while.", field=SPREAD),
        Setting(
            "slow_start",
            kinds.duration(0, _DAY_MS),
            "Time over which a server that came back gets its full share.",
            field="slow_start_ms",
            example="30s",
        ),
        Setting(
            "concurrency",
            kinds.whole(1, 1_000_000, {"unlimited": 0, "adaptive": -1}),
            "Most requests in flight to this upstream.",
        ),
        Setting("queue", QUEUE, "Where requests wait for a free slot.", field=SPREAD),
        Setting("keepalive", kinds.whole(0, 65_535), "Idle connections kept per worker and server."),
        Setting(
            "keepalive_idle",
            kinds.duration(0, _DAY_MS),
            "For how long they are kept.",
            field="keepalive_idle_ms",
        ),
        Setting("retry", RETRY, "Trying another server when one cannot be reached.", field=SPREAD),
        Setting("tls", SERVER_TLS, "How https:// servers are checked.", example={"verify": True}),
    ),
)
