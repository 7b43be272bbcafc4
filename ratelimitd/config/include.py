"""The main file and the files of its `include` directory as one tree.

The included files (`*.yaml`, in the order of their names) may hold any section. Lists are joined in that
order, mappings entry by entry; a setting that two files give is an error, so no file silently overrules
another.
"""

from __future__ import annotations

import dataclasses
import os
from collections import abc as collections

from ratelimitd.config import files
from ratelimitd.config.document import (
    Document,
    Mapping,
    Node,
    Scalar,
    Sequence,
    parse,
    quote,
    quote_path,
    read_bytes,
)
from ratelimitd.config.reader import Context, collecting
from ratelimitd.errors import Problem

_JOINED = 2  # levels of mappings that are joined: the sections and their settings


@dataclasses.dataclass(frozen=True)
class Tree:
    root: Mapping
    problems: tuple[Problem, ...]
    files: tuple[str, ...]


def read_tree(path: str, environ: collections.Mapping[str, str]) -> Tree:
    """The joined tree; ConfigError when the main file cannot be read at all."""
    main = _document(path)
    problems = list(main.problems)
    root, names = main.root, [path]
    with collecting(problems):
        for name in _included(main.root, environ):
            names.append(name)
            with collecting(problems):
                part = _document(name)
                problems.extend(part.problems)
                root = _join(root, _without_include(part.root, problems), _JOINED, problems)
    return Tree(root, tuple(problems), tuple(names))


def _document(path: str) -> Document:
    return parse(read_bytes(path), path)


def _included(root: Mapping, environ: collections.Mapping[str, str]) -> list[str]:
    """The paths of the included files; editors' hidden files are none of them."""
    node = root.get("include")
    if node is None:
        return []
    directory = files.directory().read(node, Context(environ).at("include"))
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise node.place.error(
            f"the directory {quote_path(directory)} cannot be read: {error.strerror}"
        ) from None
    return [
        os.path.join(directory, name) for name in names if name.endswith(".yaml") and not name.startswith(".")
    ]


def _without_include(root: Mapping, problems: list[Problem]) -> Mapping:
    for key, _ in root.entries:
        if key.text == "include":
            problems.append(key.place.problem("only the main file may have `include`"))
    return Mapping(root.place, tuple((key, node) for key, node in root.entries if key.text != "include"))


def _join(first: Mapping, second: Mapping, levels: int, problems: list[Problem]) -> Mapping:
    entries: dict[str, tuple[Scalar, Node]] = {key.text: (key, node) for key, node in first.entries}
    for key, node in second.entries:
        if key.text not in entries:
            entries[key.text] = (key, node)
            continue
        there, old = entries[key.text]
        if isinstance(old, Sequence) and isinstance(node, Sequence):
            entries[key.text] = (there, Sequence(old.place, old.items + node.items))
        elif isinstance(old, Mapping) and isinstance(node, Mapping) and levels > 1:
            entries[key.text] = (there, _join(old, node, levels - 1, problems))
        else:
            where = f"{there.place.file}:{there.place.line}"
            problems.append(
                key.place.problem(f"duplicate setting {quote(key.text)}: it stands in {where} already")
            )
    return Mapping(first.place, tuple(entries.values()))
