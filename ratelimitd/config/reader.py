"""The grammar of settings: what a kind of value is, and the kinds that are made of others.

A Kind reads one node and returns the value for the model, or raises ConfigError with every problem below that
node; so one wrong setting never hides another. The same objects give the JSON Schema and the written form of
the defaults, hence each setting is spelled once, in `sections`. Kinds of single values are in `kinds`.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import difflib
import functools
import os.path
from collections import abc as collections
from typing import Any

import msgspec

from ratelimitd.config import unsupported
from ratelimitd.config.document import Mapping, Node, Place, Scalar, Sequence, quote
from ratelimitd.errors import ConfigError, Problem

SPREAD = ""  # as a setting's field: its kind reads a dict of several fields of the same struct
REQUIRED = msgspec.NODEFAULT
NOTHING: tuple[Any, ...] = (None, (), "", b"")  # values of the model that no setting needs to say


@dataclasses.dataclass(frozen=True)
class Context:
    """What reading depends on besides the nodes; `path` names the setting, as in `limits[].rate`."""

    environ: collections.Mapping[str, str]
    upstreams: frozenset[str] = frozenset()
    path: str = ""

    def at(self, name: str) -> Context:
        return dataclasses.replace(self, path=f"{self.path}.{name}" if self.path else name)

    def error(self, place: Place, message: str) -> ConfigError:
        """A problem of this setting; its name, where it has one, begins the message."""
        name = self.path.rpartition(".")[2].removesuffix("[]")
        return place.error(f"{name}: {message}" if name not in ("", "*") else message)

    def inside(self, part: str) -> Context:
        return dataclasses.replace(self, path=self.path + part)


class Kind(abc.ABC):
    """One kind of value."""

    @abc.abstractmethod
    def read(self, node: Node, context: Context) -> Any:
        """The value for the model; ConfigError with every problem of `node`."""

    @abc.abstractmethod
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of what may be written."""

    def show(self, value: Any) -> Any:
        """`value` as it would be written, in JSON's types."""
        return value


@contextlib.contextmanager
def collecting(problems: list[Problem]) -> collections.Iterator[None]:
    """Adds the problems of a ConfigError to `problems` and goes on."""
    try:
        yield
    except ConfigError as error:
        problems.extend(error.problems)


def raise_all(problems: list[Problem]) -> None:
    if problems:
        raise ConfigError(tuple(problems))


def found(node: Node) -> str:
    """What stands at `node`, for a message."""
    if isinstance(node, Sequence):
        return "found a list" if node.items else "found an empty list"
    if isinstance(node, Mapping):
        return "found a mapping" if node.entries else "found an empty mapping"
    if node.type == "null":
        return "found nothing"
    if node.type in ("whole", "decimal"):
        return f"found the number {node.text[:60]}"
    return f"found the text {quote(node.text)}" if node.type == "text" else f"found {node.text}"


def did_you_mean(word: str, known: collections.Iterable[str]) -> str:
    """The known word that resembles `word`, or all of them."""
    return _suggestion(word[:60], tuple(known))


@functools.lru_cache(maxsize=1024)
def _suggestion(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {quote(close[0])}?" if close else f"known here: {', '.join(known)}"


def resolve_path(text: str, place: Place) -> str:
    """An absolute path; relative ones start at the directory of the file that names them."""
    return os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(place.file)), text))


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a section; its default is that of the field in the model."""

    name: str
    kind: Kind
    help: str
    field: str | None = None  # None: the same as `name`
    required: bool = False
    restart: bool = False
    example: Any = None  # what the manual shows where there is no default

    @property
    def target(self) -> str:
        return self.name if self.field is None else self.field

    def default(self, struct: type[msgspec.Struct]) -> Any:
        """The default as it would be written; None when leaving the setting out means nothing."""
        if self.required or self.example is not None:
            return None
        if self.target == SPREAD:
            return self.kind.show(defaults(struct))
        return self.kind.show(defaults(struct)[self.target])


def defaults(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        field.name: field.default for field in msgspec.structs.fields(struct) if field.default is not REQUIRED
    }


@dataclasses.dataclass(frozen=True)
class Fields(Kind):
    """A mapping of settings, read into a dict from the names of the model's fields to their values.

    `check` looks at that dict and yields (name of a setting, what is wrong with it); a name that is not
    given, or "", stands for the whole mapping.
    """

    struct: type[msgspec.Struct]
    settings: tuple[Setting, ...]
    check: collections.Callable[[dict[str, Any]], collections.Iterable[tuple[str, str]]] = lambda _: ()

    def read(self, node: Node, context: Context) -> Any:
        if not isinstance(node, Mapping):
            names = ", ".join(setting.name for setting in self.settings)
            raise context.error(node.place, f"expected a mapping with {names}, {found(node)}")
        problems: list[Problem] = []
        values: dict[str, Any] = {}
        for key, item in node.entries:
            with collecting(problems):
                values |= self._read_setting(key, item, context)
        for setting in self.settings:
            if setting.required and node.get(setting.name) is None:
                problems += context.error(node.place, f"the setting `{setting.name}` is missing").problems
        if not problems:
            for name, message in self.check(values):
                inner = node.get(name)
                where, place = (context.at(name), inner.place) if inner else (context, node.place)
                problems += where.error(place, message).problems
        raise_all(problems)
        return values

    def _read_setting(self, key: Scalar, node: Node, context: Context) -> dict[str, Any]:
        setting = next((setting for setting in self.settings if setting.name == key.text), None)
        if setting is None:
            hint = did_you_mean(key.text, (setting.name for setting in self.settings))
            raise key.place.error(f"unknown setting {quote(key.text)}: {hint}")
        value = read_supported(setting.kind, node, context.at(setting.name))
        return dict(value) if setting.target == SPREAD else {setting.target: value}

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {setting.name: self._property(setting) for setting in self.settings},
            "required": [setting.name for setting in self.settings if setting.required],
        }

    def _property(self, setting: Setting) -> dict[str, Any]:
        note = " Needs a restart." if setting.restart else ""
        described = setting.kind.schema() | {"description": setting.help + note}
        default = setting.default(self.struct)
        return described if default is None else described | {"default": default}

    def show(self, value: Any) -> Any:
        """`value` is a dict of fields of the struct, or the struct."""
        known = value if isinstance(value, dict) else msgspec.structs.asdict(value)
        shown = {}
        for setting in self.settings:
            if setting.target == SPREAD:
                shown[setting.name] = setting.kind.show(known)
            elif known.get(setting.target) not in NOTHING:
                shown[setting.name] = setting.kind.show(known[setting.target])
        return shown


@dataclasses.dataclass(frozen=True)
class Section(Fields):
    """A mapping of settings that becomes one struct of the model."""

    build: collections.Callable[..., Any] | None = None  # None: the struct itself

    def read(self, node: Node, context: Context) -> Any:
        return (self.build or self.struct)(**super().read(node, context))


def read_supported(kind: Kind, node: Node, context: Context) -> Any:
    """What `kind` reads, unless this version cannot do it yet."""
    value = kind.read(node, context)
    missing = unsupported.feature(context.path, value)
    if missing:
        raise node.place.error(f"{missing}: not supported by this version")
    return value


def refuse_twice(places: dict[Any, Place], value: Any, place: Place, noun: str) -> None:
    """Remembers where `value` stands; it may stand only once."""
    first = places.setdefault(value, place)
    if first is not place:
        raise place.error(f"duplicate {noun} {quote(str(value))}: it stands in line {first.line} already")


@dataclasses.dataclass(frozen=True)
class ListOf(Kind):
    """A list of one kind, or with `lone` also one such value without brackets; no value twice."""

    item: Kind
    lone: bool = False
    unique: collections.Callable[[Any], Any] = lambda value: value
    noun: str = "entry"

    def read(self, node: Node, context: Context) -> tuple[Any, ...]:
        if isinstance(node, Sequence):
            items = node.items
        elif self.lone and not (isinstance(node, Scalar) and node.type == "null"):
            items = (node,)
        else:
            raise context.error(node.place, f"expected a list, {found(node)}")
        if not items:
            raise context.error(node.place, f"the list is empty: expected at least one {self.noun}")
        return self._read_items(items, context.inside("[]"))

    def _read_items(self, items: tuple[Node, ...], context: Context) -> tuple[Any, ...]:
        problems: list[Problem] = []
        values: list[Any] = []
        places: dict[Any, Place] = {}
        for item in items:
            with collecting(problems):
                value = read_supported(self.item, item, context)
                refuse_twice(places, self.unique(value), item.place, self.noun)
                values.append(value)
        raise_all(problems)
        return tuple(values)

    def schema(self) -> dict[str, Any]:
        item = self.item.schema()
        several = {"type": "array", "items": item, "minItems": 1}
        return {"anyOf": [item, several]} if self.lone else several

    def show(self, value: Any) -> Any:
        shown = [self.item.show(item) for item in value]
        return shown[0] if self.lone and len(shown) == 1 else shown


@dataclasses.dataclass(frozen=True)
class MapOf(Kind):
    """A mapping with keys of the operator's choice: `build(key, value)` of each entry, in a tuple; no two
    keys with the same `unique`."""

    key: Kind
    value: Kind
    build: collections.Callable[[Any, Any], Any] = lambda key, value: (key, value)
    noun: str = "a mapping"
    unique: collections.Callable[[Any], Any] = lambda key: key

    def read(self, node: Node, context: Context) -> tuple[Any, ...]:
        if not isinstance(node, Mapping) or not node.entries:
            raise context.error(node.place, f"expected {self.noun}, {found(node)}")
        problems: list[Problem] = []
        values: list[Any] = []
        places: dict[Any, Place] = {}
        for key, item in node.entries:
            with collecting(problems):
                name = self.key.read(key, context)
                refuse_twice(places, self.unique(name), key.place, "key")
                values.append(self.build(name, read_supported(self.value, item, context.inside(".*"))))
        raise_all(problems)
        return tuple(values)

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": self.value.schema(), "minProperties": 1}

    def show(self, value: Any) -> Any:
        return dict(value)


@dataclasses.dataclass(frozen=True)
class Shorthand(Kind):
    """A section, or the value of its first setting alone."""

    section: Section

    def read(self, node: Node, context: Context) -> Any:
        if isinstance(node, Scalar) and node.type != "null":
            first = self.section.settings[0]
            node = Mapping(node.place, ((Scalar(node.place, first.name), node),))
        return self.section.read(node, context)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.section.settings[0].kind.schema(), self.section.schema()]}

    def show(self, value: Any) -> Any:
        return self.section.show(value)


@dataclasses.dataclass(frozen=True)
class Either(Kind):
    """A mapping of one kind or a single value of another."""

    scalar: Kind
    mapping: Kind

    def read(self, node: Node, context: Context) -> Any:
        return (self.mapping if isinstance(node, Mapping) else self.scalar).read(node, context)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.scalar.schema(), self.mapping.schema()]}

    def show(self, value: Any) -> Any:
        return self.scalar.show(value)
