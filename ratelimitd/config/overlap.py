"""Which limits can apply to one request, so that not more of them meet than one decision can charge.

A request is a path, a host and a method here. What a limit says about headers is taken to hold, and so is a
host with a `*`; of a path only what stands before the first `*` counts. So limits may be found to meet that
never do, and none that meet are missed. Paths are compared as limits compare them: decoded, without case,
closing slash and parameters.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterator
from urllib.parse import unquote

from ratelimitd.config.model import Limit


@dataclasses.dataclass(frozen=True, eq=False)
class _Rule:
    """A limit by the alternatives of its path, its host and its method; none: any will do."""

    limit: Limit
    alternatives: tuple[frozenset[str], ...]


def crowd(limits: tuple[Limit, ...], most: int) -> tuple[Limit, ...]:
    """Limits with more than `most` rates that can all apply to one request; () when there are none such."""
    rules = [_Rule(limit, (_paths(limit), _hosts(limit), frozenset(limit.match.method))) for limit in limits]
    found = frozenset(_crowd(rules, most, dimension=0))
    return tuple(rule.limit for rule in rules if rule in found)


def _crowd(rules: list[_Rule], most: int, dimension: int) -> list[_Rule]:
    """A crowd among `rules`, which meet in all dimensions before `dimension`."""
    if sum(len(rule.limit.rates) for rule in rules) <= most:
        return []
    if dimension == len(rules[0].alternatives):
        return rules
    meeting = (_crowd(together, most, dimension + 1) for together in _meeting(rules, dimension))
    return next((found for found in meeting if found), [])


def _meeting(rules: list[_Rule], dimension: int) -> Iterator[list[_Rule]]:
    """The rules that meet, for each kind of request that their patterns of one dimension tell apart."""
    any_will_do: list[_Rule] = []
    by_pattern: dict[str, list[_Rule]] = {}
    for rule in rules:
        for pattern in rule.alternatives[dimension]:
            by_pattern.setdefault(pattern, []).append(rule)
        if not rule.alternatives[dimension]:
            any_will_do.append(rule)
    yield any_will_do
    for kind in by_pattern:
        special = (rule for pattern in _covering(kind) for rule in by_pattern.get(pattern, ()))
        yield any_will_do + list(dict.fromkeys(special))


def _covering(kind: str) -> Iterator[str]:
    """Every pattern that fits all of `kind`: itself, `/a/*` for `/a`, and each beginning with a `*`."""
    yield kind
    yield f"{kind}/*"
    for end in range(1, len(kind) + 1):
        yield f"{kind[:end]}*"


def _hosts(limit: Limit) -> frozenset[str]:
    hosts = limit.match.host
    return (
        frozenset() if any("*" in host for host in hosts) else frozenset(_plain_host(host) for host in hosts)
    )


def _plain_host(text: str) -> str:
    return text.lower().removesuffix(".")


def _paths(limit: Limit) -> frozenset[str]:
    return frozenset(_plain_path(path) for path in limit.match.path)


def _plain_path(text: str) -> str:
    before, star, _ = text.partition("*")
    decoded = unquote(before, encoding="latin-1").replace("\\", "/")
    folded = re.sub(r";[^/]*", "", re.sub(r"/+", "/", decoded)).casefold()
    return posixpath.normpath(f"{folded}{star}")
