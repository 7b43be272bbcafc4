"""Strict YAML: the tree with its places, every surprise refused, and no input that hurts."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.config import document
from ratelimitd.config.document import Mapping, Node, Scalar, Sequence
from ratelimitd.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def problems(data: bytes | str) -> list[str]:
    """All that is said about a file, as LINE:COLUMN: message."""
    try:
        found = document.parse(data if isinstance(data, bytes) else data.encode(), "f").problems
    except ConfigError as error:
        found = error.problems
    return [str(problem).removeprefix("f:") for problem in found]


def only_problem(data: bytes | str) -> str:
    (problem,) = problems(data)
    return problem


def places(node: Node) -> list[tuple[str, int, int]]:
    """Every scalar with its place, in the order of the text."""
    match node:
        case Scalar(place, text):
            return [(text, place.line, place.column)]
        case Sequence(_, items):
            return [place for item in items for place in places(item)]
        case Mapping(_, entries):
            return [place for entry in entries for part in entry for place in places(part)]


def test_every_scalar_knows_its_place() -> None:
    text = "ä: ü\nlist:\n  - one\n  - {two: \"2\", 'three': [4]}\n"
    assert places(document.parse(text.encode(), "f").root) == [
        ("ä", 1, 1),
        ("ü", 1, 4),
        ("list", 2, 1),
        ("one", 3, 5),
        ("two", 4, 6),
        ("2", 4, 11),
        ("three", 4, 16),
        ("4", 4, 26),
    ]


@pytest.mark.parametrize(
    ("text", "type"),
    [
        ("", "null"),
        ("~", "null"),
        ("null", "null"),
        ("true", "truth"),
        ("FALSE", "truth"),
        ("5", "whole"),
        ("-5", "whole"),
        ("0x1F", "whole"),
        ("1.5", "decimal"),
        ("1e3", "decimal"),
        (".inf", "decimal"),
        ("127.0.0.1", "text"),
        ("10s", "text"),
        ("'5'", "text"),
        ('"true"', "text"),
    ],
)
def test_types_are_those_of_yaml_1_2(text: str, type: str) -> None:
    node = document.parse(f"a: {text}".encode(), "f").root.get("a")
    assert isinstance(node, Scalar)
    assert node.type == type


@pytest.mark.parametrize(
    "text",
    [
        "on",
        "Off",
        "YES",
        "no",
        "y",
        "N",
        "1:30",
        "12:30:45",
        "010",
        "0o17",
        "0b1",
        "1_000",
        "0x_f",
        "2026-01-02",
    ],
)
def test_what_yaml_versions_read_differently_is_refused(text: str) -> None:
    assert only_problem(f"a: {text}").startswith(f"1:4: {text!r} is ambiguous: ")
    assert only_problem(f"{text}: a").startswith(f"1:1: {text!r} is ambiguous: ")
    assert problems(f"a: '{text}'") == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "2:1: duplicate key 'a': it stands in line 1 already"),
        ("a: {b: 1, b: 2}", "1:11: duplicate key 'b': it stands in line 1 already"),
        ("a: 1\n'a': 2", "2:1: duplicate key 'a': it stands in line 1 already"),
        ("a: !!str 1", "1:4: tags are not supported: remove 'tag:yaml.org,2002:str'"),
        (
            "a: !!python/object:os.system {}",
            "1:4: tags are not supported: remove 'tag:yaml.org,2002:python/object:os.system'",
        ),
        ("a: &x 1", "1:4: anchors are not supported: remove `&x`"),
        ("? [1]\n: 2", "1:3: expected the name of a setting before the colon"),
        ("? \n: 2", "1:2: expected the name of a setting before the colon"),
        ("~: 2", "1:1: expected the name of a setting before the colon"),
        ("<<: {a: 1}", "1:1: '<<' is ambiguous: merge keys are not supported: write the settings out"),
        ("a: 1\n---\nb: 2", "2:1: the file holds a second document: remove the line `---`"),
        ("", "1:1: the file is empty: expected settings such as `upstreams:`"),
        ("# nothing\n", "1:1: the file is empty: expected settings such as `upstreams:`"),
        ("---\n", "1:1: the file is empty: expected settings such as `upstreams:`"),
        ("- a", "1:1: expected settings such as `upstreams:`, found a list"),
        ("hello", "1:1: expected settings such as `upstreams:`, found 'hello'"),
    ],
)
def test_says_what_is_wrong_and_where(text: str, problem: str) -> None:
    assert only_problem(text) == problem


def test_an_alias_is_refused_with_its_anchor() -> None:
    assert problems("a: &x [1]\nb: *x") == [
        "1:4: anchors are not supported: remove `&x`",
        "2:4: aliases are not supported: write out what `*x` stands for",
    ]


def test_every_mistake_is_found() -> None:
    assert [problem.partition(": ")[0] for problem in problems("a: on\na: off\nb: !t 1\nc: 010")] == [
        "1:4",
        "2:4",
        "3:4",
        "4:4",
        "2:1",
    ]


@pytest.mark.parametrize(
    "text", ["a: [1", "a: {b", "a: b: c", "\ta: 1", "a: 'x", "a: @x", "%FOO", "a: 1\n b: 2", "*x", "<: {"]
)
def test_what_is_no_yaml_has_a_place(text: str) -> None:
    assert only_problem(text).partition(": ")[2].startswith(("this is no YAML: ", "aliases are"))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xef\xbb\xbfa: 1", "1:1: the file begins with a byte order mark: save it as UTF-8 without one"),
        (
            "a: 1".encode("utf-16"),
            "1:1: the file begins with a byte order mark: save it as UTF-8 without one",
        ),
        (b"a: 1\nb: caf\xe9\n", "2:7: the file is no UTF-8 text: here is the byte 0xe9"),
        (b"a: \x00", "1:4: the file is no text: here is the control character U+0000"),
        (b"a: 1\nbc: \x1b[31m", "2:5: the file is no text: here is the control character U+001B"),
        (b"\x7fELF\x02\x01\x01", "1:1: the file is no text: here is the control character U+007F"),
    ],
)
def test_what_is_no_text_has_a_place(data: bytes, problem: str) -> None:
    assert only_problem(data) == problem


def test_deep_nesting_is_refused_before_it_hurts() -> None:
    for opening in ("a: " + 100_000 * "[", "a: " + 100_000 * "{a: ", 100_000 * "- ", 100_000 * "? "):
        assert "nest" in only_problem(opening)
    assert problems("a: " + 31 * "[" + 31 * "]") == []
    assert (
        only_problem("a: " + 32 * "[" + 32 * "]") == "1:35: lists and mappings are nested more than 32 deep"
    )


def test_an_alias_bomb_costs_nothing() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    started = time.process_time()
    assert "aliases are not supported" in "\n".join(problems("\n".join(lines)))
    assert time.process_time() - started < 1


def read_problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        document.read_bytes(str(path))
    return str(caught.value).removeprefix(f"{path}:")


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"a: 1\n" * 2_000_000)
    assert read_problem(tmp_path / "none") == "1:1: the file cannot be read: No such file or directory"
    assert (
        read_problem(tmp_path / "loop") == "1:1: the file cannot be read: Too many levels of symbolic links"
    )
    assert read_problem(tmp_path) == "1:1: the file is no regular file"
    assert read_problem(tmp_path / "fifo") == "1:1: the file is no regular file"
    assert read_problem(tmp_path / "large").startswith(
        "1:1: the file is larger than 1 MiB, which no configuration"
    )
    assert read_problem(tmp_path / "a\0b") == "1:1: the file cannot be read: embedded null byte"


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"#" * document.LARGEST_FILE)
    assert len(document.read_bytes(str(path))) == document.LARGEST_FILE


@given(st.binary(max_size=200))
@example(b"a: \xf0\x9f\x98\x80")
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No bytes lead to another error than ConfigError, and every problem has a printable line of its own."""
    for problem in problems(data):
        assert problem.isprintable()


@given(st.text("ab:-?#&*!|>'\"%@`{}[],~<= \n\t0159.on\\xu", max_size=60))
def test_any_yaml_is_read_or_refused(text: str) -> None:
    """The same for texts that are nearly YAML."""
    for problem in problems(text):
        assert problem.isprintable()
