"""Paths and hosts in the form in which routes and limits compare them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.errors import ClientFault
from ratelimitd.http.target import limit_path, normal_host, normal_path


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
