"""Which web servers this worker could not connect to since it last said so.

Opening a connection is the slow path, so a dictionary may be touched there; nothing is noted for a request
that uses a kept connection. The supervisor hears of it once a second and decides what it means.
"""

from __future__ import annotations

import os
import socket


class Unreached:
    """Failures by upstream and server, with the words for the last one."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str], str] = {}

    def note(self, upstream: str, server: str, error: OSError) -> None:
        self._failures[upstream, server] = reason(error)

    def take(self) -> tuple[tuple[str, str, str], ...]:
        """(upstream, server, why) of what failed since the last call."""
        failures, self._failures = self._failures, {}
        return tuple((upstream, server, why) for (upstream, server), why in failures.items())


def reason(error: OSError) -> str:
    """Why a connection could not be opened, in a few words."""
    if isinstance(error, socket.gaierror):
        return "its name does not resolve"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "no connection within timeouts.connect"
    text = os.strerror(error.errno) if error.errno else str(error)
    return text[:1].lower() + text[1:]
