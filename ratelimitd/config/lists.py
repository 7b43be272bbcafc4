"""Values that may stand in files of their own: networks and overrides named as `file:PATH`.

Such a file has one entry a line; empty lines and lines that begin with `#` are skipped. Its problems are
reported with its own name and line. Lists of a million entries are meant to be possible.
"""

from __future__ import annotations

import dataclasses
from collections import abc as collections
from typing import Any

from ratelimitd.config import addresses, kinds, model, units
from ratelimitd.config.document import Mapping, Node, Place, Scalar, decode, quote, read_bytes
from ratelimitd.config.reader import Context, Kind, ListOf, MapOf, collecting, raise_all, resolve_path
from ratelimitd.errors import Problem

LARGEST_LIST = 64 << 20
_FILE = "file:"


def lines_of(node: Scalar, name: str) -> collections.Iterator[tuple[str, Place]]:
    """The entries of the file that `node` names, each with its place."""
    path = resolve_path(name.removeprefix(_FILE), node.place)
    text = decode(read_bytes(path, LARGEST_LIST, mention=node.place), path)
    for number, line in enumerate(text.split("\n"), start=1):
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield entry, Place(path, number, line.index(entry) + 1)


class NetworkList(ListOf):
    """Networks, some of them perhaps in files. One that is listed twice, as in joined lists, is one."""

    def _read_items(self, items: tuple[Node, ...], context: Context) -> tuple[str, ...]:
        problems: list[Problem] = []
        values: dict[str, None] = {}
        for item in items:
            with collecting(problems):
                text, _ = kinds.scalar_text(item, context, addresses.NETWORK)
                if isinstance(item, Scalar) and text.startswith(_FILE):
                    values |= dict.fromkeys(_networks_in(item, text))
                else:
                    values[self.item.read(item, context)] = None
        raise_all(problems)
        return tuple(values)


def _networks_in(node: Scalar, name: str) -> list[str]:
    problems: list[Problem] = []
    networks: list[str] = []
    for entry, place in lines_of(node, name):
        try:
            networks.append(addresses.network(entry))
        except ValueError as error:
            problems.append(place.problem(f"{quote(entry)} {error}; expected {addresses.NETWORK}"))
    raise_all(problems)
    return networks


@dataclasses.dataclass(frozen=True)
class Overrides(Kind):
    """Rates of single keys: a mapping, or `file:PATH` with lines of a key, a space and its rates."""

    mapping: MapOf

    def read(self, node: Node, context: Context) -> tuple[tuple[str, tuple[model.Rate, ...]], ...]:
        if isinstance(node, Mapping):
            return self.mapping.read(node, context)
        text, _ = kinds.scalar_text(node, context, "a mapping of keys to rates, or file:PATH")
        if not isinstance(node, Scalar) or not text.startswith(_FILE):
            raise node.place.error(
                f"overrides: {quote(text)} is neither a mapping of keys to rates nor file:PATH"
            )
        problems: list[Problem] = []
        values: dict[str, tuple[model.Rate, ...]] = {}
        for entry, place in lines_of(node, text):
            with collecting(problems):
                key, rates = self._line(entry, place)
                if key in values:
                    raise place.error(f"duplicate key {quote(key)}")
                values[key] = rates
        raise_all(problems)
        return tuple(values.items())

    def _line(self, entry: str, place: Place) -> tuple[str, tuple[model.Rate, ...]]:
        key, *rest = entry.rsplit(maxsplit=1)
        if not rest:
            raise place.error(f"{quote(entry)} has no rate; expected a key, a space and {units.RATE}")
        try:
            return key, tuple(units.rate(rate) for rate in rest[0].split(","))
        except ValueError as error:
            raise place.error(f"{quote(rest[0])} {error}; expected {units.RATE}") from None

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": "^file:"}, self.mapping.schema()]}
