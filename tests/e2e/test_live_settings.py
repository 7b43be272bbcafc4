"""Settings that are live: a reload changes what the next request meets, on connections that are open already.

Limits, clients and routes have their own tests, which reload for every row (tests/decisions).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ratelimitd.control.answers import ReloadAnswer
from tests.conftest import StartDaemon
from tests.control.admin_client import ask
from tests.daemon import Daemon
from tests.proxy.talking import Answer, Client, get, post
from tests.servers import LOOPBACK, Gunicorn

BASE: dict[str, Any] = {"limits": [{"name": "each", "per": "client", "rate": "100/1h"}]}


class Reloaded:
    """A daemon whose file is written anew for each question."""

    def __init__(self, start_daemon: StartDaemon, gunicorn: Gunicorn, directory: Path) -> None:
        self._file, self._socket = directory / "live.yaml", directory / "admin.sock"
        self._base = BASE | {
            "upstreams": {"web": {"servers": [gunicorn.url]}},
            "admin": {"socket": str(self._socket)},
        }
        self._write({})
        self.daemon: Daemon = start_daemon("-c", str(self._file))

    def _write(self, more: dict[str, Any]) -> None:
        self._file.write_text(json.dumps(self._base | more))

    def put_in_force(self, more: dict[str, Any]) -> None:
        self._write(more)
        answer = msgspec.json.decode(ask(self._socket, "POST", "/api/reload")[2], type=ReloadAnswer)
        assert answer.result == "success", answer
        assert answer.changes, answer


def received(answer: Answer, name: str) -> str | None:
    """A field as the web server received it."""
    fields = {key.lower(): value for key, value in json.loads(answer.body)["headers"].items()}
    return fields.get(name)


def answered(status: int) -> Callable[[Answer], bool]:
    return lambda answer: answer.status == status


def receives(name: str, value: str | None) -> Callable[[Answer], bool]:
    return lambda answer: received(answer, name) == value


NOWHERE = {"servers": [f"http://{LOOPBACK}:9"]}
LONG = "x" * 2_000

CASES: dict[str, tuple[dict[str, Any], bytes, Callable[[Answer], bool]]] = {
    "bounds.target": ({"bounds": {"target": "64B"}}, get("/" + "x" * 100), answered(414)),
    "bounds.head": ({"bounds": {"head": "1KiB", "target": "64B"}}, get("/", f"X-A: {LONG}"), answered(431)),
    "bounds.headers": ({"bounds": {"headers": 3}}, get("/", "A: 1", "B: 2", "C: 3"), answered(431)),
    "bounds.body": ({"bounds": {"body": "10B"}}, post(b"x" * 11), answered(413)),
    "clients.deny": ({"clients": {"deny": [LOOPBACK]}}, get(), answered(403)),
    "headers.rate_limit": (
        {"headers": {"rate_limit": False}},
        get(),
        lambda answer: not answer.values("ratelimit"),
    ),
    "headers.request_id": ({"headers": {"request_id": "none"}}, get(), receives("x-request-id", None)),
    "headers.forwarded": ({"headers": {"forwarded": "none"}}, get(), receives("x-forwarded-for", None)),
    "headers.via": ({"headers": {"via": True}}, get(), lambda answer: bool(received(answer, "via"))),
    "headers.host": (
        {"headers": {"host": "upstream"}},
        get(),
        lambda answer: received(answer, "host") != "a.example",
    ),
    "replies": (
        {"clients": {"deny": [LOOPBACK]}, "replies": {403: {"headers": {"X-Own": "1"}}}},
        get(),
        lambda answer: answer.values("x-own") == ["1"],
    ),
    "routes": ({"routes": [{"match": {"path": "/api/*"}, "upstream": "web"}]}, get("/other"), answered(404)),
    "timeouts.response": ({"timeouts": {"response": "50ms"}}, get("/sleep/0.4"), answered(504)),
    "upstreams": ({"upstreams": {"web": NOWHERE}}, get(), answered(502)),
}


@pytest.fixture
def reloaded(start_daemon: StartDaemon, gunicorn: Gunicorn, tmp_path: Path) -> Reloaded:
    return Reloaded(start_daemon, gunicorn, tmp_path)


class Asking:
    """Asks on one connection, and opens another only when an answer has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.client = Client(port)

    def __call__(self, data: bytes) -> Answer:
        answer = self.client.ask(data)
        if answer.closes:
            self.client.sock.close()
            self.client = Client(self._port)
        return answer


def test_live_settings(reloaded: Reloaded) -> None:
    ask_for = Asking(reloaded.daemon.port)
    for name, (setting, request, holds) in CASES.items():
        assert not holds(ask_for(request)), name
        reloaded.put_in_force(setting)
        assert holds(ask_for(request)), name
        reloaded.put_in_force({})
        assert not holds(ask_for(request)), name
    ask_for.client.sock.close()
