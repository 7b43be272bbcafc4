"""The table of settings, written out: as a JSON Schema for editors, and as a list for whoever compares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ratelimitd.config.reader import Either, Fields, Kind, ListOf, MapOf, Setting, Shorthand
from ratelimitd.config.sections import ROOT


def json_schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of ratelimitd",
        **ROOT.schema(),
        "$defs": {
            "environment": {
                "type": "string",
                "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}",
                "description": "${NAME} or ${NAME:-default}: a variable of the environment.",
            }
        },
    }


def settings(kind: Kind = ROOT, path: str = "") -> Iterator[tuple[str, Setting, type[msgspec.Struct]]]:
    """Every setting below `kind`: its path, itself, and the struct whose field holds its default.

    In a path `[]` stands for each item of a list, `.*` for each entry of a mapping.
    """
    match kind:
        case Fields():
            for setting in kind.settings:
                inner = f"{path}.{setting.name}" if path else setting.name
                yield inner, setting, kind.struct
                yield from settings(setting.kind, inner)
        case ListOf():
            yield from settings(kind.item, f"{path}[]")
        case MapOf():
            yield from settings(kind.value, f"{path}.*")
        case Shorthand():
            yield from settings(kind.section, path)
        case Either():
            yield from settings(kind.mapping, path)
        case _:
            pass
