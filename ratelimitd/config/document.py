"""Strict YAML: bytes of a file in, a tree of nodes with their places out.

Scalars stay texts here; `kinds` gives them types. What a careful operator would never write on purpose is an
error with line and column: duplicate keys, tags, anchors and aliases, several documents, the surprises of
YAML 1.1. Those are collected in `Document.problems`; what makes the file unreadable as a whole (no UTF-8, no
YAML, too large, empty) raises ConfigError at once. The tree is built from libyaml's events without recursion,
so no input can exhaust the stack.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from typing import Any

import yaml

from ratelimitd.config import plain
from ratelimitd.errors import ConfigError, Problem

LARGEST_FILE = 1 << 20
DEEPEST_NESTING = 32

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# User and password of a URL, and whatever else stands before the last @: a slash in a password is a mistake.
_LOGIN = re.compile(r"(?<=://).*@", re.DOTALL)
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; line and column count from 1."""

    file: str
    line: int
    column: int

    def problem(self, message: str) -> Problem:
        return Problem(self.file, self.line, self.column, message)

    def error(self, message: str) -> ConfigError:
        return ConfigError((self.problem(message),))


@dataclasses.dataclass(frozen=True, slots=True)
class Scalar:
    place: Place
    text: str
    quoted: bool = False

    @property
    def type(self) -> plain.Type:
        return "text" if self.quoted else plain.core_type(self.text)


@dataclasses.dataclass(frozen=True, slots=True)
class Sequence:
    place: Place
    items: tuple[Node, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Mapping:
    place: Place
    entries: tuple[tuple[Scalar, Node], ...]

    def get(self, name: str) -> Node | None:
        return next((node for key, node in self.entries if key.text == name), None)


Node = Scalar | Sequence | Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    root: Mapping
    problems: tuple[Problem, ...]


def quote(text: str) -> str:
    """`text` for a message: short, without anything that a terminal would obey, and without the password of a
    URL."""
    text = _LOGIN.sub("***@", text)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return repr(shown) if shown.isprintable() else ascii(shown)


def quote_path(path: str) -> str:
    """A path for a message: whole, since its end is what one looks for."""
    return repr(path) if path.isprintable() else ascii(path)


def place_of(node: Node, *path: str | int) -> Place:
    """The place of what `path` leads to, or of the last node on the way that exists."""
    for part in path:
        found: Node | None = None
        if isinstance(node, Mapping) and isinstance(part, str):
            found = node.get(part)
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            found = node.items[part]
        if found is None:
            break
        node = found
    return node.place


def read_bytes(path: str, largest: int = LARGEST_FILE, mention: Place | None = None) -> bytes:
    """The content of a regular file; problems are reported at `mention`, or at the file itself."""
    place = mention or Place(path, 1, 1)
    subject = f"the file {quote_path(path)}" if mention else "the file"
    try:
        # O_NONBLOCK: opening a FIFO must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise place.error(f"{subject} is no regular file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(largest + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise place.error(f"{subject} cannot be read: {reason}") from None
    if len(data) > largest:
        raise place.error(
            f"{subject} is larger than {largest >> 20} MiB, which no configuration needs: "
            "long lists belong into files of their own, named as file:PATH"
        )
    return data


def decode(data: bytes, file: str) -> str:
    """The text of a file that must be UTF-8 without byte order mark and without control characters."""
    start = Place(file, 1, 1)
    if data.startswith(_BYTE_ORDER_MARKS):
        raise start.error("the file begins with a byte order mark: save it as UTF-8 without one")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        place = _place_at(data[: error.start].decode(), error.start, file)
        raise place.error(f"the file is no UTF-8 text: here is the byte 0x{data[error.start]:02x}") from None
    unprintable = _UNPRINTABLE.search(text)
    if unprintable:
        place = _place_at(text, unprintable.start(), file)
        raise place.error(f"the file is no text: here is the control character U+{ord(unprintable[0]):04X}")
    return text


def _character_at(text: str, place: Place) -> str:
    lines = text.split("\n", place.line)
    return lines[place.line - 1][place.column - 1 : place.column] if len(lines) >= place.line else ""


def _place_at(text: str, position: int, file: str) -> Place:
    before = text[:position]
    return Place(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def parse(data: bytes, file: str) -> Document:
    """The tree of one file whose top level is a mapping."""
    text = decode(data, file)
    loader = yaml.CSafeLoader(text)
    builder = _Builder(file)
    try:
        while loader.check_event():
            builder.take(loader.get_event())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        what = ", ".join(part for part in (error.context, error.problem) if part)
        if _character_at(text, place) == "\t":
            what = "here is a tab, and only spaces indent"
        raise place.error(f"this is no YAML: {what}") from None
    except yaml.YAMLError as error:
        raise Place(file, 1, 1).error(f"this is no YAML: {quote(str(error))}") from None
    finally:
        loader.dispose()
    root = builder.root
    if builder.problems and not isinstance(root, Mapping):
        raise ConfigError(tuple(builder.problems))
    if root is None or (isinstance(root, Scalar) and root.type == "null"):
        raise Place(file, 1, 1).error("the file is empty: expected settings such as `upstreams:`")
    if not isinstance(root, Mapping):
        kind = "a list" if isinstance(root, Sequence) else quote(root.text)
        raise root.place.error(f"expected settings such as `upstreams:`, found {kind}")
    return Document(root, tuple(builder.problems))


class _Open:
    """A collection whose end has not been seen; nodes of a mapping alternate between key and value."""

    def __init__(self, place: Place, is_mapping: bool) -> None:
        self.place = place
        self.is_mapping = is_mapping
        self.nodes: list[Node] = []


class _Builder:
    """Turns libyaml's events into one tree."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._file = file
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        place = Place(self._file, event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise place.error("the file holds a second document: remove the line `---`")
        elif isinstance(event, yaml.AliasEvent):
            self._refuse(place, f"aliases are not supported: write out what `*{event.anchor}` stands for")
            self._add(Scalar(place, ""))
        elif isinstance(event, yaml.NodeEvent):
            self._take_node(event, place)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(self._open.pop())

    def _take_node(self, event: Any, place: Place) -> None:
        if event.anchor:
            self._refuse(place, f"anchors are not supported: remove `&{event.anchor}`")
        if event.tag:
            self._refuse(place, f"tags are not supported: remove {quote(event.tag)}")
        if isinstance(event, yaml.ScalarEvent):
            scalar = Scalar(place, event.value, quoted=bool(event.style))
            reason = None if scalar.quoted else plain.surprise(scalar.text)
            if reason:
                self._refuse(place, f"{quote(scalar.text)} is ambiguous: {reason}")
            self._add(scalar)
            return
        if len(self._open) == DEEPEST_NESTING:
            raise place.error(f"lists and mappings are nested more than {DEEPEST_NESTING} deep")
        self._open.append(_Open(place, isinstance(event, yaml.MappingStartEvent)))

    def _refuse(self, place: Place, message: str) -> None:
        self.problems.append(place.problem(message))

    def _add(self, node: Node) -> None:
        if self._open:
            self._open[-1].nodes.append(node)
        else:
            self.root = node

    def _close(self, done: _Open) -> None:
        if done.is_mapping:
            self._add(Mapping(done.place, self._entries(done.nodes)))
        else:
            self._add(Sequence(done.place, tuple(done.nodes)))

    def _entries(self, nodes: list[Node]) -> tuple[tuple[Scalar, Node], ...]:
        entries: dict[str, tuple[Scalar, Node]] = {}
        for key, value in zip(nodes[::2], nodes[1::2], strict=True):
            if not isinstance(key, Scalar) or key.type == "null":
                self._refuse(key.place, "expected the name of a setting before the colon")
            elif key.text in entries:
                first = entries[key.text][0].place
                self._refuse(
                    key.place, f"duplicate key {quote(key.text)}: it stands in line {first.line} already"
                )
            else:
                entries[key.text] = (key, value)
        return tuple(entries.values())
