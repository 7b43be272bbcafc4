"""Every error that ratelimitd raises on purpose: whose fault it is, and what the operator reads.

Errors of libraries and of the operating system are translated where the file descriptor is owned; above
that line only this tree exists. No message needs a traceback to be understood: it says what happened,
what it means and what to do.
"""

from __future__ import annotations

import dataclasses


class RatelimitdError(Exception):
    """The root: catch it at the edge of the program and print it."""


@dataclasses.dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a configuration, at a place (line and column count from 1)."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(RatelimitdError):
    """The operator's configuration is wrong; all problems found, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class StartError(RatelimitdError):
    """The daemon cannot serve here: an address in use, a missing right, a name that does not resolve."""


class NoDaemon(RatelimitdError):
    """Nobody answers at the admin address that was named."""


class AdminRefusal(RatelimitdError):
    """The daemon answers, and does not do what an operator asked."""


class SegmentError(RatelimitdError):
    """The shared memory is not ours to read: another layout, another boot, or too small."""


class ClientFault(RatelimitdError):
    """A request that is refused for what it is: `status` is answered, `outcome` counted."""

    def __init__(self, status: int, detail: str, outcome: str = "malformed") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.outcome = outcome


class StoreFault(RatelimitdError):
    """Redis cannot be asked, or answers what is no answer: limits are kept by what a node knows itself."""


class UpstreamFault(RatelimitdError):
    """A web server that cannot be reached or answers what is no HTTP: 502, 503 or 504."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
