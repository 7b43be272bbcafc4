"""From a file, or from the command line alone, to the validated Config.

Every problem of every file is found and reported with its place, in the order of the files. What is legal
but unwise comes back as warnings. Nothing here has an effect besides reading files: `check`, `run` and a
reload use the same function.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

from ratelimitd.config import advice, checks, flags, include, model, sections
from ratelimitd.config.document import Mapping as MappingNode
from ratelimitd.config.document import Node
from ratelimitd.config.flags import Flags
from ratelimitd.config.reader import Context, collecting
from ratelimitd.config.sections import ROOT
from ratelimitd.errors import ConfigError, Problem


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A valid configuration, what is unwise in it, and the files that it came from."""

    config: model.Config
    warnings: tuple[Problem, ...]
    files: tuple[str, ...]


def load_file(
    path: str,
    environ: Mapping[str, str] | None = None,
    now_s: float | None = None,
    given: Flags | None = None,
) -> Loaded:
    """The configuration in `path` and what it includes, with what the command line says instead, read in this
    environment at this time (those of the process when they are not given); ConfigError with all problems."""
    environment = os.environ if environ is None else environ
    tree = include.read_tree(path, environment)
    problems = list(tree.problems)
    values: dict[str, Any] = {}
    with collecting(problems):
        values = ROOT.read(tree.root, Context(environment, _upstream_names(tree.root)))
    config = None
    if values:
        values.pop("include", None)
        with collecting(problems):
            config = checks.complete(model.Config(**values), tree.root)
    if problems or config is None:
        raise ConfigError(in_order(problems, tree.files))
    given = given or Flags()
    config = override(config, given)
    at_s = time.time() if now_s is None else now_s
    unwise = advice.warnings(config, tree.root, at_s, given.replaced())
    return Loaded(config, in_order(unwise, tree.files), tree.files)


def load_admin(path: str) -> model.Admin:
    """Where the daemon of `path` is asked, whatever is wrong elsewhere: it runs with an older one.
    ConfigError with all problems when `admin` itself cannot be read."""
    try:
        return load_file(path).config.admin
    except ConfigError as error:
        with contextlib.suppress(ConfigError):
            tree = include.read_tree(path, os.environ)
            node = tree.root.get("admin")
            if node is not None:
                found: model.Admin = sections.ADMIN.read(node, Context(os.environ).at("admin"))
                return found
        raise error from None


def from_flags(given: Flags) -> model.Config:
    """The configuration that flags alone make; there must be an upstream among them."""
    return override(model.Config(upstreams=(), admin=model.Admin()), given)


def override(config: model.Config, given: Flags) -> model.Config:
    """`config` with what the command line says instead."""
    return flags.apply(config, given)


def _upstream_names(root: MappingNode) -> frozenset[str]:
    node: Node | None = root.get("upstreams")
    return frozenset(key.text for key, _ in node.entries) if isinstance(node, MappingNode) else frozenset()


def in_order(problems: list[Problem], files: tuple[str, ...]) -> tuple[Problem, ...]:
    """By file and place; one for each place, since what follows from a first mistake only distracts."""
    ranks = {file: rank for rank, file in enumerate(files)}
    first: dict[tuple[int, str, int, int], Problem] = {}
    for problem in problems:
        place = (ranks.get(problem.file, len(files)), problem.file, problem.line, problem.column)
        first.setdefault(place, problem)
    return tuple(first[place] for place in sorted(first))
