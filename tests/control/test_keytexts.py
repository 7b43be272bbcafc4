"""Keys as texts: both ways, secrets hidden, and never more of them than fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.config.model import Clients
from ratelimitd.control.keytexts import MOST_TEXTS, Texts, parts_of, shown, value_of
from ratelimitd.limits.keys import KINDS, SALT_SIZE, client_bytes, material

SECRET = bytes(range(16))
PARTS = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), st.binary(max_size=40)), min_size=1, max_size=4)


@given(PARTS)
def test_the_parts_of_a_key_come_back_from_its_material(parts: list[tuple[str, bytes]]) -> None:
    assert parts_of(material(7, parts)[SALT_SIZE:]) == tuple(parts)


@given(PARTS, PARTS)
def test_different_parts_are_different_material(
    a: list[tuple[str, bytes]], b: list[tuple[str, bytes]]
) -> None:
    assert (material(1, a) == material(1, b)) == (a == b)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((("client", client_bytes("203.0.113.9")),), "203.0.113.9"),
        ((("client", client_bytes("2001:db8::1")),), "2001:db8::"),
        ((("client", client_bytes("unix")),), "unix"),
        ((("global", b""),), "global"),
        ((("path", b"/login"), ("method", b"GET")), "/login GET"),
        ((("host", b"shop.example"),), "shop.example"),
        ((("path", b"/\n\x1b[31m"),), "/\\n\\x1b[31m"),
    ],
)
def test_shown(parts: tuple[tuple[str, bytes], ...], text: str) -> None:
    assert shown(parts, SECRET) == text


@pytest.mark.parametrize("kind", ["header", "cookie", "query"])
def test_a_secret_is_four_characters_and_a_fingerprint(kind: str) -> None:
    text = shown(((kind, b"hunter2-and-more"),), SECRET)
    assert text.startswith("hunt\N{HORIZONTAL ELLIPSIS}#")
    assert "er2" not in text
    assert text != shown(((kind, b"hunter2-and-less"),), SECRET)
    assert text != shown(((kind, b"hunter2-and-more"),), bytes(16)), "elsewhere it tells nothing"
    assert shown(((kind, b"hunter2"),), None) == "hunt\N{HORIZONTAL ELLIPSIS}"


@pytest.mark.parametrize(
    ("kind", "spellings"),
    [
        ("client", ["203.0.113.9", "::ffff:203.0.113.9"]),
        ("client", ["2001:db8::1", "2001:DB8:0::2"]),
        ("host", ["shop.example", "SHOP.example.", "shop.example:8080"]),
        ("path", ["/login", "/LOGIN/", "//login", "/%6cogin;a"]),
    ],
)
def test_a_key_has_one_value_in_any_spelling(kind: str, spellings: list[str]) -> None:
    assert len({value_of(kind, text, Clients()) for text in spellings}) == 1


@pytest.mark.parametrize(("kind", "error"), [("client", "no address of a client"), ("path", "no path")])
def test_a_word_is_neither_a_client_nor_a_path(kind: str, error: str) -> None:
    with pytest.raises(ValueError, match=f"'nobody' is {error}"):
        value_of(kind, "nobody", Clients())


def numbered(number: int) -> tuple[tuple[str, bytes], ...]:
    return (("client", b"4" + number.to_bytes(4, "big")),)


def test_texts_are_bounded_and_the_longest_unseen_goes() -> None:
    texts = Texts()
    for number in range(MOST_TEXTS + 100):
        texts.refused("a", numbered(number), 1, now_us=number)
        texts.refused("a", numbered(0), 1, now_us=number)
    assert len(texts) == MOST_TEXTS
    assert texts.get("a", numbered(1)) is None
    known = texts.get("a", numbered(0))
    assert known is not None
    assert known.refused == MOST_TEXTS + 101


def test_a_banned_key_outlasts_a_flood_of_others_until_its_ban_ends() -> None:
    texts = Texts()
    texts.banned("a", numbered(0), until_us=10_000_000, now_us=0)
    for number in range(1, 3 * MOST_TEXTS):
        texts.refused("a", numbered(number), 1, now_us=number)
    assert texts.get("a", numbered(0)) is not None
    for number in range(3 * MOST_TEXTS, 5 * MOST_TEXTS):
        texts.refused("a", numbered(number), 1, now_us=20_000_000)
    assert texts.get("a", numbered(0)) is None


def test_a_rate_of_refusals_fades() -> None:
    texts = Texts()
    for second in range(60):
        texts.refused("a", numbered(0), 50, now_us=second * 1_000_000)
    known = texts.get("a", numbered(0))
    assert known is not None
    assert 45 < known.per_s(59_000_000) < 55
    assert known.per_s(60_000_000 + 60_000_000) < 1
