"""Matches as the daemon asks them: no spelling gets around a limit, routes are exact.

Requests are read from bytes, as they come, so that the short way of a plain request and the long way of any
other are both taken.
"""

from __future__ import annotations

import re
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.config.model import Match
from ratelimitd.errors import ClientFault
from ratelimitd.http.matching import Matcher, RequestText
from ratelimitd.http.request import read_request
from ratelimitd.http.target import limit_path, normal_host, normal_path


def holds(
    match: Match,
    target: bytes = b"/",
    method: str = "GET",
    host: bytes = b"a.example",
    *,
    plan: bytes | None = None,
    for_limit: bool = False,
) -> bool:
    fields = b"Host: %b\r\n" % host + (b"" if plan is None else b"X-Plan: %b\r\n" % plan)
    data = b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), target, fields)
    _, text = read_request(data, 100, 65536, 65536)
    return Matcher(match, for_limit=for_limit)(text)


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


@pytest.mark.parametrize("target", [b"/catalogue/chairs", b"/catalog", b"/CATALOGUE/", b"/cata", b"/x/y.php"])
def test_a_limit_for_several_paths(target: bytes) -> None:
    """They begin alike for fewer bytes, as many or more than are compared first; or not at all."""
    path = target.decode().lower().rstrip("/")
    for others in ([], ["/cat"], ["/catalogue/*"], ["/catalogue/red", "/c"], ["/*.exe"], ["/ä", "/x*"]):
        assert holds(Match(path=(*others, path)), target, for_limit=True), others
        assert not holds(Match(path=("/zoo", "/zoo/*")), target, for_limit=True)
    assert holds(Match(path=("/*",)), target, for_limit=True)


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
    "host", [b"A.Example", b"a.example:80", b"a.example.", b"a.example.:443", b"a.example"]
)
def test_a_host_is_the_same_however_it_is_written(host: bytes) -> None:
    assert holds(Match(host=("A.example.:8080",)), host=host)
    assert not holds(Match(host=("b.example",)), host=host)


@pytest.mark.parametrize("host", [b"[2001:DB8::1]:80", b"[2001:db8::1]"])
def test_an_address_is_a_host(host: bytes) -> None:
    assert holds(Match(host=("[2001:db8::1]",)), host=host)


def test_all_parts_must_hold() -> None:
    match = Match(
        host=("a.example", "*.b.example"), path=("/x",), method=("GET", "PUT"), header=(("X-Plan", "gold*"),)
    )
    assert holds(match, b"/x", plan=b"golden")
    assert holds(match, b"/x", "PUT", b"c.B.example:8080", plan=b"golden")
    assert not holds(match, b"/x", host=b"b.example", plan=b"golden")
    assert not holds(match, b"/x", "get", plan=b"golden")
    assert not holds(match, b"/y", plan=b"golden")
    assert not holds(match, b"/x", plan=b"silver")
    assert not holds(match, b"/x")


def test_a_value_is_matched_whole() -> None:
    match = Match(header=(("X-Plan", "gold"),))
    assert holds(match, plan=b"gold")
    assert not holds(match, plan=b"golden")
    assert not holds(match, plan=b"marigold")
    assert not holds(match, plan=b"")


def test_a_value_above_ascii_is_latin_1_where_it_can_be() -> None:
    assert holds(Match(header=(("X-Plan", "é"),)), plan=b"\xe9")
    assert holds(Match(header=(("X-Plan", "ł*"),)), plan="ła".encode())


@given(st.text("ab*", max_size=7), st.text("ab", max_size=9))
def test_a_star_is_any_rest(pattern: str, path: str) -> None:
    """Invariant: a pattern holds for what the regular expression with `.*` for `*` matches whole."""
    expected = re.fullmatch("/" + ".*".join(pattern.split("*")), "/" + path)
    match = Match(path=("/" + pattern,))
    tree = pattern.endswith("/*")
    assert tree or holds(match, b"/" + path.encode()) == bool(expected)


@given(st.text("ab/*", max_size=7), st.text("ab/", max_size=9))
def test_a_closing_star_is_a_tree(pattern: str, path: str) -> None:
    """Invariant: `X/*` holds for X and for all below it, whatever stars are in X."""
    top = normal_path(b"/" + pattern.encode()).rstrip("/")
    expected = re.fullmatch(".*".join(top.split("*")) + "(?:/.*)?", normal_path(b"/" + path.encode()))
    assert top == "" or holds(Match(path=(top + "/*",)), b"/" + path.encode()) == bool(expected)


@given(st.text("/.;%2fA?b", max_size=12), st.sampled_from(["a.example", "A.example.:80", "[::1]:1"]))
def test_the_short_way_is_the_long_way(target: str, host: str) -> None:
    """Invariant: what is read from bytes is what `normal_path`, `limit_path` and `normal_host` say."""
    try:
        path = normal_path(b"/" + target.encode())
    except ClientFault:
        return
    data = f"GET /{target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    _, text = read_request(data, 100, 65536, 65536)
    assert text.path == path
    assert text.host == normal_host(host.encode())
    if "*" not in path:
        pattern = quote(limit_path(path).encode("latin-1"), safe="/")
        assert Matcher(Match(path=(pattern,)), for_limit=True)(text)


def test_a_request_without_a_head_has_no_fields() -> None:
    assert not Matcher(Match(header=(("X-Plan", "*"),)), for_limit=False)(RequestText("GET", "", "/"))


def test_a_long_path_costs_no_more_than_its_length() -> None:
    """Each part between two stars is looked for once, not again from every place where the one before is."""
    began_s = time.process_time()
    assert not holds(Match(path=("/*a/*a/*a/*b",)), b"/a" * 4_000, for_limit=True)
    assert time.process_time() - began_s < 1
