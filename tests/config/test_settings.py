"""The table of settings: every one refuses wrong types with its place, and the annotated example names it.

The example switches settings off by a `#` right before them; here those lines are switched on again.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimitd.config import document, load, schema
from ratelimitd.config.document import Mapping, Node, Scalar, Sequence
from ratelimitd.config.kinds import Single
from ratelimitd.config.reader import Context, Setting
from ratelimitd.control.reload import NEEDS_RESTART
from ratelimitd.errors import ConfigError
from tests.certificates import Authority

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = (ROOT / "config" / "ratelimitd.yaml").read_text()
SETTINGS = {path: (setting, struct) for path, setting, struct in schema.settings()}
FILES = tempfile.TemporaryDirectory()
PAIR = Authority(Path(FILES.name)).issue("a.example")
# What the siblings of a setting must have.
NEEDED: dict[str, Any] = {
    "upstreams": {"web": {"servers": ["http://127.0.0.1:9000"]}},
    "listen[].bind": "127.0.0.1:8080",
    "listen[].tls[].certificate": str(PAIR.certificate),
    "listen[].tls[].key": str(PAIR.key),
    "upstreams.*.servers": ["http://127.0.0.1:9000"],
    "upstreams.*.servers[].url": "http://127.0.0.1:9000",
    "upstreams.*.health.path": "/",
    "routes[].upstream": "web",
    "limits[].name": "a",
    "limits[].per": "client",
    "limits[].rate": "5/s",
    "limits[].cost.header": "x-cost",
    "limits[].cost.max": 5,
    "limits[].ban.after": 5,
    "limits[].ban.within": "1m",
    "limits[].ban.for": "1h",
    "journal.path": "journal.jsonl",
}
WRONG: list[Any] = [None, [], {}, [[]], {"a": {}}, "", "\x07", "?", -1, 1.5, 10**30, True, "a" * 300]


def with_value(path: str, value: Any, section: str = "") -> dict[str, Any]:
    """The smallest configuration that has `value` at `path`."""
    name, _, rest = path.partition(".")
    inner = f"{section}.{name}" if section else name
    entries = {
        setting.name: NEEDED[where]
        for where, (setting, _) in SETTINGS.items()
        if where in NEEDED and where.rpartition(".")[0] == section and setting.name != name.removesuffix("[]")
    }
    if not rest:
        return entries | {name: value}
    if rest.startswith("*."):
        key = "429" if name == "replies" else "web"
        return entries | {name: {key: with_value(rest[2:], value, f"{inner}.*")}}
    below = with_value(rest, value, inner)
    return entries | ({name.removesuffix("[]"): [below]} if name.endswith("[]") else {name: below})


def problems(directory: Path, text: str | bytes) -> list[str]:
    path = directory / "f.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    try:
        load.load_file(str(path), {})
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_the_smallest_configurations_are_right(tmp_path: Path) -> None:
    """Else the tests below would see problems of the siblings."""
    for path, value in NEEDED.items():
        found = problems(tmp_path, json.dumps(with_value(path, value)))
        assert all("not supported by this version" in problem for problem in found), path


@pytest.mark.parametrize("path", SETTINGS)
def test_a_wrong_type_is_told_with_its_place(path: str, tmp_path: Path) -> None:
    name = path.rpartition(".")[2]
    for wrong in WRONG:
        text = json.dumps(with_value(path, wrong), indent=0)
        line = next(
            number for number, line in enumerate(text.split("\n"), 1) if line.startswith(f'"{name}": ')
        )
        last = line + json.dumps(wrong, indent=0).count("\n")
        for problem in problems(tmp_path, text):
            place, message = problem.removeprefix(f"{tmp_path}/f.yaml:").split(": ", 1)
            if "not supported by this version" in message:
                continue
            assert line <= int(place.split(":")[0]) <= last, f"{wrong}: {problem}"
            assert message.isprintable()
        if wrong is None or wrong == [[]]:
            assert problems(tmp_path, text), f"{wrong} was taken"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(SETTINGS)),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
)
def test_any_value_is_read_or_refused(tmp_path: Path, path: str, value: Any) -> None:
    """No value of any setting leads to another error than ConfigError."""
    for problem in problems(tmp_path, json.dumps(with_value(path, value), ensure_ascii=False)):
        assert problem.isprintable()


def switched_on() -> Mapping:
    """The example with all its settings switched on."""
    text = re.sub(r"^( *)#(?! |$)", r"\1", EXAMPLE, flags=re.MULTILINE)
    parsed = document.parse(text.encode(), "example")
    assert parsed.problems == ()
    return parsed.root


def nodes_at(node: Node, path: str) -> list[Node]:
    """Every node of the tree that `path` means."""
    nodes = [node]
    for part in re.findall(r"\[\]|\*|[a-z0-9_]+", path):
        found: list[Node] = []
        for one in nodes:
            if part == "[]":
                found += one.items if isinstance(one, Sequence) else [one]
            elif isinstance(one, Mapping):
                found += [value for key, value in one.entries if part in ("*", key.text)]
        nodes = found
    return nodes


def test_the_example_is_valid(tmp_path: Path) -> None:
    assert problems(tmp_path, EXAMPLE) == []


def test_the_example_holds_the_defaults() -> None:
    """What is switched on is the default; beyond it the example has an upstream, a limit and routes."""
    config = load.load_file(str(ROOT / "config" / "ratelimitd.yaml"), {}).config
    named = {"upstreams", "listen", "routes", "limits", "admin"}
    for field in msgspec.structs.fields(type(config)):
        if field.name not in named:
            assert getattr(config, field.name) == field.default, field.name
    assert config.listen == msgspec.structs.fields(type(config))[1].default


@pytest.mark.parametrize("path", SETTINGS)
def test_the_example_names_every_setting(path: str) -> None:
    setting, struct = SETTINGS[path]
    if path in ("limits[].cost.header", "limits[].cost.max"):
        assert "{header: NAME, max: N}" in EXAMPLE
        return
    nodes = nodes_at(switched_on(), path.replace("limits[].match.", "routes[].match."))
    assert nodes, f"config/ratelimitd.yaml does not name {path}"
    default = setting.default(struct)
    if isinstance(setting.kind, Single) and default is not None:
        assert default in [shown(setting, node) for node in nodes]


def shown(setting: Setting, node: Node) -> Any:
    assert isinstance(node, Scalar)
    return setting.kind.show(setting.kind.read(node, Context({})))


@pytest.mark.parametrize("path", SETTINGS)
def test_the_example_marks_what_needs_a_restart(path: str) -> None:
    setting, _ = SETTINGS[path]
    lines = [EXAMPLE.split("\n")[line - 1] for line in key_lines(path)]
    assert all(("(R)" in line) == setting.restart for line in lines), lines


def test_what_is_marked_is_what_a_reload_refuses() -> None:
    """A reload refuses a change of a whole section: so all of its settings are marked, and no others."""
    for path, (setting, _) in SETTINGS.items():
        assert setting.restart == (re.split(r"[.\[]", path)[0] in NEEDS_RESTART), path


def key_lines(path: str) -> list[int]:
    """The lines in which the example names a setting."""
    section, _, name = path.rpartition(".")
    return [
        key.place.line
        for node in nodes_at(switched_on(), section)
        if isinstance(node, Mapping)
        for key, _ in node.entries
        if key.text == name
    ]


def test_the_example_cut_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    data = re.sub(r"(^| +)#.*", "", EXAMPLE, flags=re.MULTILINE).encode()
    for end in range(len(data)):
        for problem in problems(tmp_path, data[:end]):
            assert problem.isprintable()


def test_the_schema_describes_every_setting() -> None:
    whole = schema.json_schema()
    for path, (setting, struct) in SETTINGS.items():
        described = at_path(whole, path)
        assert described["description"].startswith(setting.help), path
        assert ("restart" in described["description"].removeprefix(setting.help)) == setting.restart, path
        assert described.get("default") == setting.default(struct), path


def at_path(node: dict[str, Any], path: str) -> dict[str, Any]:
    """The schema of one setting; of alternatives the one that leads on."""
    for part in re.findall(r"\[\]|\*|[a-z0-9_]+", path):
        alternatives = [node, *node.get("anyOf", ())]
        key = {"[]": "items", "*": "additionalProperties"}.get(part)
        if key:
            node = next(one[key] for one in alternatives if isinstance(one.get(key), dict))
        else:
            deeper = [*alternatives, *(inner for one in alternatives for inner in one.get("anyOf", ()))]
            node = next(one["properties"][part] for one in deeper if part in one.get("properties", ()))
    return node
