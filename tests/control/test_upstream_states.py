"""What is told of web servers: once when one goes, once when it comes back, and nothing in between."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from ratelimitd.config.model import Server, Upstream
from ratelimitd.control.upstream_states import QUIET_S, UpstreamStates
from ratelimitd.proxy.orders import Unreached
from ratelimitd.segment import layout
from ratelimitd.segment.servers import ServerWords
from tests.control.daemon import config

if TYPE_CHECKING:
    from ratelimitd.config.model import Config

A, B = "http://10.0.0.1:80", "http://10.0.0.2:80"
REFUSED = "connection refused"


class Watched:
    """States of `servers`, with what they told and the answers that they were shown."""

    def __init__(self, *servers: str) -> None:
        self.config = self._config(*servers)
        self.answers: dict[tuple[str, str], int] = {}
        self.events: list[tuple[str, str]] = []
        memory: Any = bytearray(2 * layout.SERVER_SIZE)
        self.words = {url: ServerWords(memory, n * layout.SERVER_SIZE) for n, url in enumerate((A, B))}
        self.states = UpstreamStates(
            lambda: self.config, lambda: self.answers, lambda name: self.words[name[1]], self._note
        )

    @staticmethod
    def _config(*servers: str) -> Config:
        upstream = Upstream("web", tuple(Server(url, host="10.0.0.1", port=80) for url in servers))
        return config(upstreams=(upstream,))

    def serve(self, *servers: str) -> None:
        self.config = self._config(*servers)

    def _note(self, event: str, message: str, **_: Any) -> None:
        self.events.append((event, message))

    def fails(self, server: str, why: str = REFUSED) -> float:
        """The instant at which it failed."""
        self.states.take(Unreached((("web", server, why),)))
        return dict(self.states.all())["web", server].error_at_s

    def up(self) -> list[bool]:
        return [state.up for _, state in self.states.all()]


def test_a_server_is_told_once_when_it_goes_and_once_when_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    watched = Watched(A)
    for _ in range(3):
        at_s = watched.fails(A)
    assert watched.up() == [False]
    watched.states.look(at_s + 60)
    assert watched.up() == [False], "nothing was answered"
    watched.answers["web", A] = 1
    watched.states.look(at_s + QUIET_S)
    watched.states.look(at_s + 2 * QUIET_S)
    assert watched.up() == [True]
    down, up = caplog.messages
    assert down == (
        f"web server {A} of upstream web cannot be reached: connection refused; "
        "requests get 502 until it answers; is it running?"
    )
    assert up.startswith(f"web server {A} of upstream web answers again after ")
    assert [event for event, _ in watched.events] == ["upstream_down", "upstream_up"]
    (_, state), *_ = watched.states.all()
    assert state.error == REFUSED, "the last error stays to be seen"


def test_one_that_still_finishes_what_it_has_is_not_told_in_turns() -> None:
    watched = Watched(A)
    for count in range(1, 5):
        at_s = watched.fails(A)
        watched.answers["web", A] = count
        watched.states.look(at_s + QUIET_S / 2)
    assert watched.up() == [False]
    assert len(watched.events) == 1


def test_what_becomes_of_requests_depends_on_the_others() -> None:
    watched = Watched(A, B)
    watched.fails(A)
    watched.fails(B)
    first, second = (message for _, message in watched.events)
    assert "the others get its requests" in first
    assert "requests get 502" in second


def test_a_server_that_a_reload_took_away_is_forgotten() -> None:
    watched = Watched(A, B)
    at_s = watched.fails(A)
    watched.serve(B)
    watched.states.take(Unreached((("web", A, REFUSED),)))  # of a request that still went there
    watched.states.look(at_s + 60)
    watched.serve(A, B)
    assert watched.up() == [True, True]
    assert len(watched.events) == 1


def test_health_checks_have_the_last_word() -> None:
    watched = Watched(A, B)
    watched.words[A].fell()
    watched.states.checked(("web", A), "503 for /healthz")
    assert watched.up() == [False, True]
    assert watched.states.any_up()
    watched.answers["web", A] = 5  # requests that it still had
    (_, state), _ = watched.states.all()
    watched.states.look(state.error_at_s + 60)
    assert watched.up() == [False, True]
    watched.words[B].fell()
    watched.states.checked(("web", B), "connection refused")
    assert not watched.states.any_up()
    watched.words[A].rose(1)
    watched.states.checked(("web", A), "")
    assert watched.up() == [True, False]
    messages = [message for _, message in watched.events]
    assert messages[0] == (
        f"web server {A} of upstream web fails its health checks: 503 for /healthz; "
        "the others get its requests until it answers"
    )
    assert "requests get 503" in messages[1]
    assert [event for event, _ in watched.events] == ["upstream_down", "upstream_down", "upstream_up"]


def test_a_server_that_is_ejected_is_told_with_the_first_time_in_a_row() -> None:
    watched = Watched(A, B)
    words = watched.words[A].words
    for ejections in (1, 2, 3):
        words[2], words[3] = 10_000_000, ejections
        watched.states.look(60.0)
    assert watched.up() == [False, True]
    words[2] = 0
    (_, state), _ = watched.states.all()
    watched.answers["web", A] = 5
    watched.states.look(state.error_at_s + 60)
    assert watched.up() == [True, True]
    assert len(watched.events) == 2
    assert "is left alone for a while: too many failures in a row (eject)" in watched.events[0][1]
