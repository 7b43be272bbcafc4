"""The kinds of single values: text, numbers, words, durations and the like.

Each is one Single: what is expected in words, how a text becomes the model's value (ValueError continues
the sentence that begins with the text), how the value is written, and what editors may check. Environment
variables are replaced here, after the YAML is parsed.
"""

from __future__ import annotations

import dataclasses
import re
from collections import abc as collections
from typing import Any

from ratelimitd.config import plain, units
from ratelimitd.config.document import Node, Scalar, quote
from ratelimitd.config.environment import expand
from ratelimitd.config.reader import Context, Kind, did_you_mean, found

_ANY: frozenset[plain.Type] = frozenset({"text", "whole", "decimal", "truth"})
_TEXT: frozenset[plain.Type] = frozenset({"text"})
TEXT_OR_WHOLE: frozenset[plain.Type] = frozenset({"text", "whole"})
_ENVIRONMENT = {"$ref": "#/$defs/environment"}

TOKEN_PATTERN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}"  # RFC 9110, section 5.6.2
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


def scalar_text(node: Node, context: Context, expected: str) -> tuple[str, frozenset[plain.Type]]:
    """The text of a single value and the types that it may be read as."""
    if not isinstance(node, Scalar) or node.type == "null":
        raise context.error(node.place, f"expected {expected}, {found(node)}")
    if "${" not in node.text:
        return node.text, frozenset({node.type})
    try:
        text = expand(node.text, context.environ)
    except ValueError as error:
        raise context.error(node.place, f"{quote(node.text)} {error}") from None
    # What comes from the environment has no quotes of its own: it is what the setting needs.
    return text, frozenset({"text", plain.core_type(text)})


@dataclasses.dataclass(frozen=True)
class Single(Kind):
    """A kind written as one scalar. `words` are texts with a meaning of their own, such as `auto`."""

    expected: str
    parse: collections.Callable[[str], Any]
    value_schema: dict[str, Any]
    types: frozenset[plain.Type] = _ANY
    words: collections.Mapping[str, Any] = dataclasses.field(default_factory=dict)
    write: collections.Callable[[Any], Any] = lambda value: value

    def read(self, node: Node, context: Context) -> Any:
        text, types = scalar_text(node, context, self.expected)
        if text in self.words:
            return self.words[text]
        if not types & self.types:
            hint = ": put it in quotes" if self.types == _TEXT else ""
            if types == _TEXT and plain.core_type(text) in self.types:
                hint = ": remove the quotes"
            shown = Scalar(node.place, text, quoted=types == _TEXT)
            raise context.error(node.place, f"expected {self.expected}, {found(shown)}{hint}")
        try:
            return self.parse(text)
        except ValueError as error:
            message = f"{quote(text)} {error}; expected {self.expected}"
            raise context.error(node.place, message) from None

    def schema(self) -> dict[str, Any]:
        words = [{"enum": list(self.words)}] if self.words else []
        return {"anyOf": [*words, self.value_schema, _ENVIRONMENT]}

    def show(self, value: Any) -> Any:
        word = next((word for word, meaning in self.words.items() if meaning == value), None)
        return self.write(value) if word is None else word


def text(
    expected: str = "text",
    pattern: str = r".+",
    convert: collections.Callable[[str], Any] = str,
    words: collections.Mapping[str, Any] | None = None,
    types: frozenset[plain.Type] = _TEXT,
    write: collections.Callable[[Any], Any] = lambda value: value,
    editors: str = "",
) -> Single:
    """Printable text that fits `pattern` and that `convert` takes; `editors` get another pattern to check."""

    def parse(written: str) -> Any:
        if not written.isprintable():
            raise ValueError("has a control character")
        if re.fullmatch(pattern, written) is None:
            raise ValueError("does not fit here" if written else "is empty")
        return convert(written)

    return Single(
        expected, parse, {"type": "string", "pattern": f"^({editors or pattern})$"}, types, words or {}, write
    )


def loose_text(expected: str = "text") -> Single:
    """Text as a request may carry it: a number needs no quotes."""
    kind = text(expected, types=_ANY)
    return dataclasses.replace(kind, value_schema={"type": ["string", "number", "boolean"]})


def choice(*choices: str, words: collections.Mapping[str, Any] | None = None) -> Single:
    """One of a few words, each the value itself or with a meaning given in `words`."""
    known = {word: word for word in choices} | dict(words or {})

    def parse(written: str) -> Any:
        raise ValueError(f"is no choice here ({did_you_mean(written, known)})")

    *others, last = known
    return Single(f"{', '.join(others)} or {last}", parse, {"enum": list(known)}, _TEXT, known)


def truth() -> Single:
    return Single(
        "true or false", lambda text: text.lower() == "true", {"type": "boolean"}, frozenset({"truth"})
    )


def whole(least: int, most: int, words: collections.Mapping[str, Any] | None = None) -> Single:
    """A whole number within bounds."""

    def parse(written: str) -> int:
        if plain.core_type(written) != "whole":
            raise ValueError("is no whole number")
        if len(written) > 18:
            raise ValueError("is out of range")
        return _within(int(written, 16 if written.startswith("0x") else 10), least, most)

    expected = _or(words) + f"a whole number from {least} to {most}"
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Single(expected, parse, schema, frozenset({"whole"}), words or {})


def fraction() -> Single:
    def parse(written: str) -> float:
        value = float(written)
        if not 0 <= value <= 1:
            raise ValueError("is out of range")
        return value

    schema = {"type": "number", "minimum": 0, "maximum": 1}
    return Single("a number from 0.0 to 1.0", parse, schema, frozenset({"whole", "decimal"}))


def _or(words: collections.Mapping[str, Any] | None) -> str:
    """The words that may stand instead of a value, for what is expected."""
    return f"{', '.join(words)} or " if words else ""


def _within(value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError("is out of range")
    return value


def _unit(
    noun: str,
    pattern: str,
    parse: collections.Callable[[str], int],
    write: collections.Callable[[int], str],
    bounds: tuple[int, int],
    words: collections.Mapping[str, Any] | None,
) -> Single:
    """A whole number that is written with a unit, within bounds. A pattern that digits alone match lets
    editors take numbers as well."""
    expected = _or(words) + f"{noun}, from {write(bounds[0])} to {write(bounds[1])}"
    types = ["string", "integer"] if re.fullmatch(pattern, "1") else "string"
    schema = {"type": types, "pattern": f"^{pattern}$"}
    return Single(expected, lambda text: _within(parse(text), *bounds), schema, _ANY, words or {}, write)


def duration(least_ms: int, most_ms: int = units.LONGEST_DURATION_MS) -> Single:
    bounds = (least_ms, most_ms)
    return _unit(
        units.DURATION, units.DURATION_PATTERN, units.duration_ms, units.format_duration, bounds, None
    )


def size(least: int, most: int, words: collections.Mapping[str, Any] | None = None) -> Single:
    return _unit(units.SIZE, units.SIZE_PATTERN, units.size_bytes, units.format_size, (least, most), words)


def count(least: int, most: int) -> Single:
    return _unit(units.COUNT, units.COUNT_PATTERN, units.count, units.format_count, (least, most), None)


def rate() -> Single:
    schema = {"type": "string", "pattern": f"^{units.RATE_PATTERN}$"}
    return Single(units.RATE, units.rate, schema, write=units.format_rate)


def share() -> Single:
    schema = {"type": "string", "pattern": f"^{units.SHARE_PATTERN}$"}
    return Single(f"{units.SHARE}, from 0% to 100%", units.share, schema, write=units.format_share)


def key(kind: Single) -> Single:
    """`kind` before a colon, where quotes make no difference."""
    return dataclasses.replace(kind, types=_ANY)


def name(noun: str) -> Single:
    """A name of the operator's choice; it becomes a label of metrics and a text in headers."""
    return text(f"{noun}: letters, digits, `.`, `_` and `-`, at most 64", NAME_PATTERN)


def header_name(words: collections.Mapping[str, Any] | None = None) -> Single:
    expected = _or(words) + "the name of a header"
    return text(expected, TOKEN_PATTERN, convert=str.lower, words=words)


def header_value() -> Single:
    """RFC 9110, section 5.5, without the bytes above ASCII; spaces at the ends would not arrive."""
    return dataclasses.replace(
        text("the value of a header in ASCII", r"[!-~]([ -~]*[!-~])?", types=_ANY),
        value_schema={"type": ["string", "number", "boolean"]},
    )
