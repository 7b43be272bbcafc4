"""How many rates of a configuration can apply to one request.

A request is a host, a path and a method here. What a limit says about headers is taken to hold, and so is a
host with a `*`; of a path only what stands before the first `*` counts. So the answer may be too high, and is
never too low. Paths are compared as limits compare them: decoded, without case, closing slash and parameters.
"""

from __future__ import annotations

import functools
import itertools
import operator
import posixpath
import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote

from ratelimitd.config.model import Limit


def most_rates(limits: tuple[Limit, ...]) -> int:
    weights = [len(limit.rates) for limit in limits]
    if sum(weights) == 0:
        return 0
    hosts = _masks([_hosts(limit.match.host) for limit in limits], operator.eq)
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


def _hosts(texts: tuple[str, ...]) -> list[str]:
    return [] if any("*" in text for text in texts) else [text.lower().removesuffix(".") for text in texts]


def _path(text: str) -> str:
    before, star, _ = text.partition("*")
    decoded = unquote(before, encoding="latin-1").replace("\\", "/")
    folded = re.sub(r";[^/]*", "", re.sub(r"/+", "/", decoded)).casefold()
    return posixpath.normpath(f"{folded}{star}")


def _path_covers(pattern: str, path: str) -> bool:
    """Whether every request of `path` (itself a pattern) also fits `pattern`."""
    if not pattern.endswith("*"):
        return pattern == path
    prefix = pattern[:-1]
    return path.startswith(prefix) or path.removesuffix("*").removesuffix("/") == prefix.removesuffix("/")
