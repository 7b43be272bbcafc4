"""The rules of the house: who may import whom, how long things may grow, which words stay out.

Imports are read from the source, of .py files by their syntax tree and of Cython files line by line, so that
an import inside a function counts too. What may be known only to typing (`if TYPE_CHECKING:`) counts as well:
an arrow drawn for types is an arrow.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ratelimitd"

LONGEST_FUNCTION = 60
LONGEST_MODULE = 450

# Values in, values out: no clock, no randomness, no descriptor, nobody to talk to.
PURE = ("http", "limits", "overload")
IMPURE = {
    "asyncio",
    "logging",
    "random",
    "redis",
    "secrets",
    "select",
    "socket",
    "threading",
    "time",
    "uvloop",
}

# Each room may use the rooms it names here (and itself); "" is what lies directly in ratelimitd/. Everybody
# may use errors.py and the version.
MAY_USE: dict[str, frozenset[str]] = {
    "": frozenset({"config", "control", "proxy", "tools"}),
    "tools": frozenset({"config", "control", "http", "limits", "overload", "proxy", "segment"}),
    "control": frozenset({"config", "dashboard", "fleet", "http", "limits", "overload", "proxy", "segment"}),
    "proxy": frozenset({"config", "fleet", "http", "limits", "overload", "segment"}),
    "fleet": frozenset({"config", "limits", "segment"}),
    "overload": frozenset({"config", "limits"}),
    "segment": frozenset({"limits"}),
    "limits": frozenset({"config", "http"}),
    "http": frozenset({"config"}),
    "config": frozenset(),
    "dashboard": frozenset(),
}
# Below control, of the configuration only its frozen types are known, not how they are read.
ONLY_MODEL = ("proxy", "fleet", "overload", "limits", "http", "segment")

FOREIGN_WORDS = re.compile(r"\.\.[/]shared|\bissues? [#]\d+", re.IGNORECASE)
NAMES_FOREIGN_WORDS = {".ci/run", "tests/test_architecture.py"}
WRITTEN_BY_NOBODY = {"build", "dist", "ratelimitd.egg-info"}


@dataclasses.dataclass(frozen=True)
class Import:
    """`module` as it is written from the root, at `place`."""

    module: str
    place: str


def sources() -> list[Path]:
    """Every source file of the package that can import something."""
    return sorted(path for pattern in ("*.py", "*.pyx", "*.pxd", "*.pyi") for path in PACKAGE.rglob(pattern))


def room(path: Path) -> str:
    """The directory of the package that `path` lies in."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def python_imports(path: Path) -> list[Import]:
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *filter(None, [node.module])))
            modules = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [Import(module, f"{path.relative_to(ROOT)}:{node.lineno}") for module in modules]
    return found


CYTHON_FROM = re.compile(r"\s*from\s+([\w.]+)\s+c?import\s+\(?([^#\n]*)")
CYTHON_IMPORT = re.compile(r"\s*c?import\s+([\w.]+)")


def cython_imports(path: Path) -> list[Import]:
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        place = f"{path.relative_to(ROOT)}:{number}"
        if match := CYTHON_FROM.match(line):
            assert not match[1].startswith("."), f"{place}: write imports from the root in Cython files"
            names = [name.strip().split(" as ")[0] for name in match[2].strip(" ()").split(",")]
            found += [Import(f"{match[1]}.{name}", place) for name in names]
        elif match := CYTHON_IMPORT.match(line):
            found.append(Import(match[1], place))
    return found


def imports(path: Path) -> list[Import]:
    return python_imports(path) if path.suffix in {".py", ".pyi"} else cython_imports(path)


def is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir()


def ours(module: str) -> tuple[str, str] | None:
    """(room, rest) of a module of the package, None for others and for what everybody may use."""
    parts = module.split(".")
    if parts[0] != "ratelimitd" or len(parts) == 1 or parts[1] in {"errors", "__version__"}:
        return None
    return (parts[1], ".".join(parts[2:])) if is_room(parts[1]) else ("", ".".join(parts[1:]))


def test_every_room_has_its_arrows() -> None:
    rooms = {room(path) for path in sources()}
    assert rooms <= MAY_USE.keys()


def test_arrows_never_point_back() -> None:
    def reach(name: str, seen: frozenset[str]) -> None:
        assert name not in seen, f"MAY_USE has a circle through {name!r}"
        for other in MAY_USE[name]:
            reach(other, seen | {name})

    for name in MAY_USE:
        reach(name, frozenset())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    own = room(path)
    wrong = []
    for found in imports(path):
        if own in PURE and found.module.split(".")[0] in IMPURE:
            wrong.append(f"{found.place}: {own}/ takes what it needs as arguments, not from {found.module}")
        target = ours(found.module)
        if target is None or target[0] == own:
            continue
        if target[0] not in MAY_USE[own]:
            wrong.append(f"{found.place}: {own or 'the root'} may not use {target[0] or 'the root'}")
        if target[0] == "config" and own in ONLY_MODEL and not target[1].startswith("model"):
            wrong.append(f"{found.place}: {own}/ knows the configuration's frozen types alone (config.model)")
    assert wrong == []


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_opens_with_a_docstring_and_stays_short(path: Path) -> None:
    text = path.read_text()
    if path.suffix in {".py", ".pyx"}:
        assert text.lstrip().startswith(('"""', 'r"""', "# cython:")), "say first what the file promises"
    assert text.count("\n") <= LONGEST_MODULE


FUNCTION = re.compile(r"^(\s*)(?:async\s+def|def|cpdef|cdef)\b(?!\s+class)[^\n=]*\(")


def functions(path: Path) -> list[tuple[str, int]]:
    """(place, lines) of each function."""
    name = path.relative_to(ROOT)
    if path.suffix == ".py":
        return [
            (f"{name}:{node.lineno} {node.name}", (node.end_lineno or 0) - node.lineno + 1)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
    lines = path.read_text().splitlines()
    found = []
    for start, line in enumerate(lines):
        if not (match := FUNCTION.match(line)):
            continue
        last = start
        for number in range(start + 1, len(lines)):
            text = lines[number]
            if text.strip() and len(text) - len(text.lstrip()) <= len(match[1]) and text.strip() != "):":
                break
            last = number if text.strip() else last
        found.append((f"{name}:{start + 1}", last - start + 1))
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_on_a_screen(path: Path) -> None:
    assert [(place, lines) for place, lines in functions(path) if lines > LONGEST_FUNCTION] == []


def test_every_compiled_module_has_a_stub() -> None:
    without = [path for path in PACKAGE.rglob("*.pyx") if not path.with_suffix(".pyi").exists()]
    assert without == []


def written_by_us() -> Iterator[Path]:
    """Every text file of the checkout that is not built, installed or cached."""
    hidden = {path.name for path in ROOT.glob(".*")} - {".ci", ".gitignore"}
    for top in sorted(ROOT.iterdir()):
        if top.name in WRITTEN_BY_NOBODY | hidden:
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            compiled = path.suffix == ".c" and path.with_suffix(".pyx").exists()
            if path.is_file() and path.suffix not in {".so", ".pyc"} and not compiled:
                yield path


def test_no_word_that_only_its_authors_understand() -> None:
    """The project stands on its own: it points at nothing that is not in it."""
    wrong = []
    for path in written_by_us():
        name = str(path.relative_to(ROOT))
        if name not in NAMES_FOREIGN_WORDS:
            text = path.read_text(encoding="utf-8", errors="replace")
            wrong += [f"{name}: {match[0]}" for match in FOREIGN_WORDS.finditer(text)]
    assert wrong == []
