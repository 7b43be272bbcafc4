"""How many rates of a configuration can apply to one request.

A request is a host, a path and a method here; whatever a limit says about headers is taken to hold, so the
answer may be too high for limits that only headers tell apart, and is never too low. Paths are compared as
limits compare them: decoded, without case, closing slash and parameters.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from urllib.parse import unquote

from ratelimitd.config.model import Limit


def most_rates(limits: tuple[Limit, ...]) -> int:
    weights = [len(limit.rates) for limit in limits]
    if sum(weights) == 0:
        return 0
    hosts = _masks([[_host(host) for host in limit.match.host] for limit in limits], operator.eq)
    paths = _masks([[_path(path) for path in limit.match.path] for limit in limits], _path_covers)
    methods = _masks([list(limit.match.method) for limit in limits], operator.eq)
    met = {functools.reduce(operator.and_, masks) for masks in itertools.product(hosts, paths, methods)}
    return max(sum(weight for index, weight in enumerate(weights) if mask >> index & 1) for mask in met)


def _masks(patterns: list[list[str]], covers: Callable[[str, str], bool]) -> set[int]:
    """Of each kind of request that the patterns tell apart, the limits (as bits) that it meets."""
    kinds: Iterable[str] = {pattern for several in patterns for pattern in several}
    open_to_all = sum(1 << index for index, several in enumerate(patterns) if not several)
    masks = {open_to_all}
    for kind in kinds:
        met = (
            index
            for index, several in enumerate(patterns)
            if any(covers(pattern, kind) for pattern in several)
        )
        masks.add(open_to_all | sum(1 << index for index in met))
    return masks


def _host(text: str) -> str:
    return text.lower().removesuffix(".")


def _path(text: str) -> str:
    decoded = unquote(text, errors="replace").replace("\\", "/").lower()
    return decoded if decoded == "/" else decoded.partition(";")[0].removesuffix("/")


def _path_covers(pattern: str, path: str) -> bool:
    """Whether every request of `path` (itself a pattern) also fits `pattern`."""
    if not pattern.endswith("*"):
        return pattern == path
    prefix = pattern[:-1]
    return path.startswith(prefix) or path.removesuffix("*").removesuffix("/") == prefix.removesuffix("/")
