"""Names of web servers that move, fail and come back: told to the workers when it changes, said once."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from ratelimitd.config.model import Server, Upstream
from ratelimitd.control.names import Names
from ratelimitd.control.resolve import lookup
from ratelimitd.proxy.orders import Addresses
from tests.control.daemon import config


class Lookups:
    """Names that are looked up in a dictionary; an OSError is raised."""

    def __init__(self, *hosts: str) -> None:
        servers = tuple(Server(f"http://{host}:80", host=host, port=80) for host in hosts)
        self.config = config(upstreams=(Upstream("web", servers),))
        self.zone: dict[str, tuple[str, ...] | OSError] = {}
        self.sent: list[dict[str, tuple[str, ...]]] = []
        self.events: list[str] = []
        self.names = Names(lambda: self.config, self._send, self._note, self._resolve)

    async def _resolve(self, name: str) -> tuple[str, ...]:
        found = self.zone[name]
        if isinstance(found, OSError):
            raise found
        return found

    def _send(self, addresses: Addresses) -> None:
        self.sent.append(dict(addresses.names))

    def _note(self, event: str, message: str, **_: Any) -> None:
        self.events.append(f"{event}: {message}")

    def look(self, **zone: tuple[str, ...] | OSError) -> None:
        self.zone |= zone
        asyncio.run(self.names.look())


def test_only_changes_are_told_and_only_moves_are_said() -> None:
    lookups = Lookups("app", "10.0.0.9", "::1")
    lookups.look(app=("10.0.0.1", "10.0.0.2"))
    lookups.look(app=("10.0.0.2", "10.0.0.1"))  # a name server that turns them round
    assert lookups.sent == [{"app": ("10.0.0.1", "10.0.0.2")}]
    assert lookups.events == []
    lookups.look(app=("10.0.0.3",))
    assert lookups.sent[1:] == [{"app": ("10.0.0.3",)}]
    assert lookups.events == [
        "name_changed: the web server 'app' is now at 10.0.0.3 (was 10.0.0.1, 10.0.0.2)"
    ]


def test_a_lookup_that_fails_keeps_the_addresses_and_is_said_once() -> None:
    lookups = Lookups("app", "other")
    lookups.look(app=("10.0.0.1",), other=("10.0.0.5",))
    for _ in range(3):
        lookups.look(app=socket.gaierror(-3, "Temporary failure in name resolution"))
    assert len(lookups.events) == 1
    assert "'app' of a web server does not resolve: Temporary failure" in lookups.events[0]
    lookups.look(other=("10.0.0.6",))
    assert lookups.sent[-1] == {"app": ("10.0.0.1",), "other": ("10.0.0.6",)}
    lookups.look(app=("10.0.0.1",))
    lookups.look(app=socket.gaierror(-2, "Name or service not known"))
    assert len([event for event in lookups.events if event.startswith("name_lost")]) == 2


def test_a_name_that_a_reload_took_away_is_forgotten() -> None:
    lookups = Lookups("app")
    lookups.look(app=("10.0.0.1",))
    lookups.config = config()
    lookups.look()
    assert lookups.sent == [{"app": ("10.0.0.1",)}, {}]


def test_the_system_is_asked() -> None:
    assert set(asyncio.run(lookup("localhost"))) & {"127.0.0.1", "::1"}


@pytest.mark.parametrize("turns", range(5))
def test_it_ends_when_a_server_is_lost_in_the_same_moment(
    monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """`turns` of the loop lie between the two."""
    monkeypatch.setattr("ratelimitd.control.names.SOON_S", 0.0)

    async def run() -> None:
        lookups = Lookups()
        looking = asyncio.ensure_future(lookups.names.run())
        for _ in range(5):
            await asyncio.sleep(0)
        lookups.names.hurry()
        for _ in range(turns):
            await asyncio.sleep(0)
        looking.cancel()
        await asyncio.wait({looking}, timeout=2)
        assert looking.cancelled()

    asyncio.run(run())
