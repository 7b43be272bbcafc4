"""Which web servers answer and which do not: told once when that changes, and shown to whoever asks.

Facts come in from those who meet the servers: workers that cannot reach one, health checks, and the record by
which workers leave one alone that fails. A server that could not be reached is up again when it has answered
and a whole second brought no further failure, so that one which stops, and still finishes what it has, is not
told in turns; one that health checks took down is up when they say so. Nobody else logs and journals it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ratelimitd.config.model import Config
    from ratelimitd.control.journal import Note
    from ratelimitd.proxy.orders import Unreached
    from ratelimitd.segment.servers import ServerWords

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.5
QUIET_S: Final = 1.5  # workers tell once a second
_HINTS: Final = MappingProxyType(
    {
        "connection refused": "is it running?",
        "no such file or directory": "is it running?",
        "its name does not resolve": "is the name right?",
        "no connection within timeouts.connect": "is it overloaded, or is a firewall between?",
        "no route to host": "is the address right?",
    }
)

_UNREACHED: Final = "cannot be reached"
_UNHEALTHY: Final = "fails its health checks"
_EJECTED: Final = "is left alone for a while"

Name = tuple[str, str]  # upstream, server: as in the configuration


@dataclasses.dataclass
class ServerState:
    """One server. `since_s` is when it became what it is, on the wall clock; 0: as long as we know it."""

    up: bool = True
    since_s: float = 0.0
    error: str = ""  # the last one, kept when the server answers again
    error_at_s: float = 0.0


class UpstreamStates:
    """The servers of the configuration in force. `answers` gives how many answers each ever gave, `words` a
    server's record in the segment."""

    def __init__(
        self,
        config: Callable[[], Config],
        answers: Callable[[], Mapping[Name, int]],
        words: Callable[[Name], ServerWords],
        note: Note,
    ) -> None:
        self._config = config
        self._answers = answers
        self._words = words
        self._note = note
        self._states: dict[Name, ServerState] = {}
        self._answered: dict[Name, int] = {}  # of servers that are down, when they last failed

    def all(self) -> Iterator[tuple[Name, ServerState]]:
        """Every server, in the order of the configuration."""
        for upstream in self._config().upstreams:
            for server in upstream.servers:
                name = upstream.name, server.url
                yield name, self._states.get(name, ServerState())

    def take(self, report: Unreached) -> None:
        """What a worker tells."""
        for upstream, server, why in report.servers:
            self.failed((upstream, server), why)

    def checked(self, name: Name, bad: str) -> None:
        """What health checks now say of `name`: why it is down, or nothing, since it is up."""
        if bad:
            self.failed(name, bad, _UNHEALTHY)
        else:
            self.answered(name)

    def any_up(self) -> bool:
        """Whether health checks leave a server to ask. Others count: they are asked, and so come back."""
        return any(not self._words(name).is_down for name, _ in self.all())

    def failed(self, name: Name, why: str, what: str = _UNREACHED) -> None:
        """`name` failed just now; `what` says at what."""
        if name not in dict(self.all()):
            return  # a worker that still finishes requests of an older configuration
        state = self._states.setdefault(name, ServerState())
        state.error, state.error_at_s = why, time.time()
        self._answered[name] = self._answers().get(name, 0)
        if state.up:
            state.up, state.since_s = False, state.error_at_s
            self._tell_down(name, why, what)

    def answered(self, name: Name) -> None:
        """`name` answers, and did not fail lately."""
        state = self._states.get(name)
        if state is None or state.up:
            return
        now_s = time.time()
        away_s, state.up, state.since_s = now_s - state.since_s, True, now_s
        del self._answered[name]
        message = f"{_text(name)} answers again after {away_s:.0f} s"
        logger.info("%s", message)
        self._note("upstream_up", message, upstream=name[0], server=name[1])

    async def run(self) -> None:
        """Look for ever whether those that failed answer again."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look(time.time())

    def look(self, now_s: float) -> None:
        known = dict(self.all())
        for name in [name for name in self._states if name not in known]:
            del self._states[name]
            self._answered.pop(name, None)
        for name in known:
            self._look_for_ejection(name)
        if not self._answered:
            return
        answers = self._answers()
        for name, before in list(self._answered.items()):
            quiet = now_s - self._states[name].error_at_s >= QUIET_S
            words = self._words(name)
            held = words.is_down or words.ejected_until_us
            if quiet and not held and answers.get(name, 0) > before:
                self.answered(name)

    def _look_for_ejection(self, name: Name) -> None:
        words = self._words(name)
        if words.ejected_until_us and words.ejections == 1:
            self.failed(name, "too many failures in a row (eject)", _EJECTED)

    def _tell_down(self, name: Name, why: str, what: str) -> None:
        others = any(state.up for (upstream, _), state in self.all() if upstream == name[0])
        status = 503 if what == _UNHEALTHY else 502
        effect = "the others get its requests" if others else f"requests get {status}"
        hint = _HINTS.get(why, "")
        message = f"{_text(name)} {what}: {why}; {effect} until it answers"
        logger.warning("%s", f"{message}; {hint}" if hint else message)
        self._note("upstream_down", message, upstream=name[0], server=name[1], cause=why)


def _text(name: Name) -> str:
    return f"web server {name[1]} of upstream {name[0]}"
