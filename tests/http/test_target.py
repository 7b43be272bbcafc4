"""Paths and hosts as routes and limits compare them: no spelling gets around a limit, routes are exact."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.config.model import Match
from ratelimitd.errors import ClientFault
from ratelimitd.http.target import Matcher, RequestText, limit_path, normal_host, normal_path


def request(
    target: bytes = b"/", method: str = "GET", host: bytes = b"a.example", *, plan: str | None = None
) -> RequestText:
    return RequestText(method, normal_host(host), normal_path(target), {"x-plan": plan}.get)


def holds(match: Match, target: bytes, *, for_limit: bool) -> bool:
    return Matcher(match, for_limit=for_limit)(request(target))


LOGIN_SPELLINGS = [
    b"/login", b"//login", b"/%6cogin", b"/LOGIN?x", b"/login;a", b"/login/", b"/login?", b"/./login",
    b"/a/../login", b"/a/%2e%2e/login", b"/%2flogin", b"/\\login", b"/%5clogin", b"/login;a=b/", b"/login//",
    b"/;x/login", b"/a/..;/login", b"/a/..;b=c/login", b"/.;/login", b"/login/.", b"/login/x/..",
    b"/a;b/../login", b"/login%3ba", b"/a%2f..%2flogin", b"/login/;jsessionid=1", b"/a/%2e%2e%3bx/login",
    b"/Lo%67IN;X?y",
]  # fmt: skip


@pytest.mark.parametrize("target", LOGIN_SPELLINGS)
def test_a_limit_on_login_holds_for_every_spelling(target: bytes) -> None:
    assert holds(Match(path=("/login",)), target, for_limit=True)
    assert holds(Match(path=("/LOGIN/",)), target, for_limit=True)


@pytest.mark.parametrize("target", [b"/logins", b"/login/x", b"/a/login", b"/", b"/log/in", b"/login%252f/x"])
def test_a_limit_on_login_holds_for_nothing_else(target: bytes) -> None:
    assert not holds(Match(path=("/login",)), target, for_limit=True)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/login", True),
        (b"//login", True),
        (b"/%6cogin", True),
        (b"/a/../login?x", True),
        (b"/login/", False),
        (b"/LOGIN", False),
        (b"/login;a", False),
        (b"/login%2f", False),
    ],
)
def test_routes_compare_exactly_after_normalisation(target: bytes, expected: bool) -> None:
    assert holds(Match(path=("/login",)), target, for_limit=False) is expected


@pytest.mark.parametrize("for_limit", [True, False])
@pytest.mark.parametrize(
    ("pattern", "target", "expected"),
    [
        ("/api/*", b"/api", True),
        ("/api/*", b"/api/", True),
        ("/api/*", b"/api/a/b?c", True),
        ("/api/*", b"/apis", False),
        ("/api/*", b"/x/api/a", False),
        ("/*", b"/", True),
        ("/*", b"/a/b", True),
        ("/a*z", b"/a/b/z", True),
        ("/a*z", b"/a/b/y", False),
        ("/*.php", b"/a/b.php", True),
        ("/a.b", b"/axb", False),
        ("/a/*/c/*", b"/a/b/c", True),
        ("/é", b"/%c3%a9", True),
    ],
)
def test_patterns(pattern: str, target: bytes, expected: bool, for_limit: bool) -> None:
    assert holds(Match(path=(pattern,)), target, for_limit=for_limit) is expected


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/a?b=/../..", "/a"),
        (b"/a/b/..", "/a/"),
        (b"/a/.", "/a/"),
        (b"/a%2fb", "/a/b"),
        (b"/a%", "/a%"),
        (b"/a%zz", "/a%zz"),
        (b"/a%252e", "/a%2e"),
        (b"/...", "/..."),
        (b"/a/.../b", "/a/.../b"),
        (b"/%c0%af", "/\xc0\xaf"),
        (b"/a;b", "/a;b"),
        (b"////", "/"),
    ],
)
def test_normal_path(target: bytes, path: str) -> None:
    assert normal_path(target) == path


@pytest.mark.parametrize(
    "target",
    [
        b"/%00",
        b"/a%00b?c",
        b"/..",
        b"/../a",
        b"/a/../..",
        b"/%2e%2e/a",
        b"/a/..%2f..",
        b"/\\..\\a",
        b"/.//../a",
    ],
)
def test_what_no_server_should_see(target: bytes) -> None:
    with pytest.raises(ClientFault) as caught:
        normal_path(target)
    assert caught.value.status == 400


@given(st.text("/.;%2eEfFaA\\?#5cC", max_size=30).map(lambda text: "/" + text))
def test_normalisation_ends(target: str) -> None:
    """Invariants: a normal path holds no `//` and no dots to resolve, and the path of a limit is its own."""
    try:
        path = normal_path(target.encode())
    except ClientFault:
        return
    assert path.startswith("/")
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))
    folded = limit_path(path)
    assert limit_path(folded) == folded
    assert "//" not in folded
    assert ";" not in folded
    assert not {".", ".."} & set(folded.split("/"))


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"A.Example", "a.example"),
        (b"a.example:80", "a.example"),
        (b"a.example.", "a.example"),
        (b"a.example.:443", "a.example"),
        (b"[2001:DB8::1]:80", "[2001:db8::1]"),
        (b"[::1]", "[::1]"),
    ],
)
def test_normal_host(host: bytes, name: str) -> None:
    assert normal_host(host) == name
    assert Matcher(Match(host=(name,)), for_limit=False)(request(host=host))


def test_all_parts_must_hold() -> None:
    match = Match(
        host=("a.example", "*.b.example"), path=("/x",), method=("GET", "PUT"), header=(("X-Plan", "gold*"),)
    )
    matches = Matcher(match, for_limit=False)
    assert matches(request(b"/x", plan="golden"))
    assert matches(request(b"/x", "PUT", b"c.B.example:8080", plan="golden"))
    assert not matches(request(b"/x", host=b"b.example", plan="golden"))
    assert not matches(request(b"/x", "get", plan="golden"))
    assert not matches(request(b"/y", plan="golden"))
    assert not matches(request(b"/x", plan="silver"))
    assert not matches(request(b"/x"))


def test_a_value_is_matched_whole() -> None:
    matches = Matcher(Match(header=(("X-Plan", "gold"),)), for_limit=False)
    assert not matches(request(plan="gold\n"))
    assert not matches(request(plan="marigold"))


@given(st.text("ab*", max_size=7), st.text("ab", max_size=9))
def test_a_star_is_any_rest(pattern: str, path: str) -> None:
    expected = re.fullmatch("/" + ".*".join(pattern.split("*")), "/" + path)
    match = Match(path=("/" + pattern,))
    assert holds(match, b"/" + path.encode(), for_limit=False) == bool(expected)


def test_a_long_path_costs_no_more_than_its_length() -> None:
    """Each part between two stars is looked for once, not again from every place where the one before is."""
    began_s = time.process_time()
    assert not holds(Match(path=("/*a/*a/*a/*b",)), b"/a" * 4_000, for_limit=True)
    assert time.process_time() - began_s < 1
