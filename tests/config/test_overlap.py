"""Which limits meet: none that the daemon would apply to one request is missed."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.config.model import Limit, Match, Rate
from ratelimitd.config.overlap import crowd
from ratelimitd.http.matching import Matcher, RequestText
from ratelimitd.http.target import normal_host, normal_path

PATHS = ["/", "/a", "/a/", "/A", "/a/b", "/a/b/c", "/ab", "/a;x", "/a//b", "/a/./b", "/%61", "/b", "/b/c"]
PATTERNS = [*PATHS, "/*", "/a*", "/a/*", "/a/b/*", "/A/*", "/*/b", "/a*c", "/b/*/c"]
HOSTS = ["one.example", "ONE.example.", "two.example", "*.example", "*"]
METHODS = ["GET", "POST", "PUT"]


def limit(
    name: str, path: tuple[str, ...] = (), host: tuple[str, ...] = (), method: tuple[str, ...] = ()
) -> Limit:
    match = Match(path=path, host=host, method=method)
    return Limit(name=name, per=("client",), rates=(Rate(5, 1_000_000),), match=match)


def names(limits: tuple[Limit, ...]) -> list[str]:
    return [one.name for one in limits]


def test_limits_of_other_paths_do_not_meet() -> None:
    assert crowd((limit("a", path=("/a",)), limit("b", path=("/b",))), 1) == ()
    assert crowd((limit("a", path=("/a/*",)), limit("b", path=("/ab",))), 1) == ()
    assert crowd((limit("a", host=("a",)), limit("b", host=("b",))), 1) == ()
    assert crowd((limit("a", method=("GET",)), limit("b", method=("PUT",))), 1) == ()


def test_limits_of_one_path_meet() -> None:
    assert names(crowd((limit("a", path=("/a/*",)), limit("b", path=("/a",))), 1)) == ["a", "b"]
    assert names(crowd((limit("a", path=("/a*",)), limit("b", path=("/a",))), 1)) == ["a", "b"]
    assert names(crowd((limit("a", path=("/A/",)), limit("b", path=("/a",))), 1)) == ["a", "b"]
    assert names(crowd((limit("a"), limit("b", path=("/a",), method=("GET",))), 1)) == ["a", "b"]
    assert crowd((limit("a"), limit("b")), 2) == ()


def some(values: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)


@given(
    st.lists(
        st.builds(Match, path=some(PATTERNS), host=some(HOSTS), method=some(METHODS)), min_size=1, max_size=5
    ),
    st.integers(0, 4),
)
def test_none_that_meet_are_missed(matches: list[Match], most: int) -> None:
    """When no crowd is found, no request fits more limits than allowed, by what the daemon matches with."""
    limits = tuple(limit(str(nth), one.path, one.host, one.method) for nth, one in enumerate(matches))
    matchers = [Matcher(match, for_limit=True) for match in matches]
    if crowd(limits, most):
        return
    for path, host, method in itertools.product([*PATHS, "/a/xbc", "/x/y/b", "/b/x/c"], HOSTS, METHODS):
        request = RequestText(method, normal_host(host.encode()), normal_path(path.encode()))
        assert sum(matcher(request) for matcher in matchers) <= most
