"""Whole files: each invalid one holds one mistake and says which problems it must give, each valid one loads,
and each unwise one says which warnings it must give.

A file begins with its problems or warnings, `# expected LINE:COLUMN: MESSAGE`, one a line; a file that cannot
hold a comment has them beside it, in NAME.expected. Problems of other files have a path before the line.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ratelimitd.config import load
from ratelimitd.config.model import Config
from ratelimitd.errors import ConfigError, Problem

CORPUS = Path(__file__).parent.parent / "corpora" / "config"
INVALID = sorted((CORPUS / "invalid").glob("*.yaml"))
UNWISE = sorted((CORPUS / "unwise").glob("*.yaml"))
VALID = sorted((CORPUS / "valid").glob("*.yaml"))
ENVIRON = {
    "WORKERS": "2",
    "PORT": "8081",
    "EMPTY": "",
    "NAME": "123",
    "WINDOW": "10s",
    "WORD": "on",
}


def expected(path: Path) -> list[str]:
    beside = path.with_suffix(".expected")
    lines = (beside if beside.exists() else path).read_bytes().decode("utf-8", "replace").splitlines()
    return lines if beside.exists() else [line[11:] for line in lines if line.startswith("# expected ")]


def written(problem: Problem, path: Path) -> str:
    """A problem as the corpus has it: no path for the file itself, DIRECTORY for where it lies."""
    text = str(problem).removeprefix(f"{path}:") if problem.file == str(path) else str(problem)
    return text.replace(str(path.parent), "DIRECTORY")


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_mistake_is_told_with_its_place(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load.load_file(str(path), ENVIRON)
    assert [written(problem, path) for problem in caught.value.problems] == expected(path)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_good_file_loads_into_the_types_of_the_model(path: Path) -> None:
    config = load.load_file(str(path), ENVIRON).config
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config


@pytest.mark.parametrize("path", UNWISE, ids=lambda path: path.stem)
def test_what_is_unwise_is_told_with_its_place(path: Path) -> None:
    warnings = load.load_file(str(path), ENVIRON).warnings
    assert [written(warning, path) for warning in warnings] == expected(path)


def test_there_are_enough() -> None:
    assert len(INVALID) > 250
    assert len(VALID) >= 7
    assert len(UNWISE) >= 9
