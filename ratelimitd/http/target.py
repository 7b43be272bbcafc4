"""What a request asks for, in the one form in which routes and limits compare it.

A path is compared without its query, percent-decoded once, `\\` as `/`, `//` joined, dots resolved; one that
holds NUL or climbs above the root is refused. Routes compare exactly after that; limits also ignore case,
one trailing `/` and `;parameters`, so that no other spelling gets around a limit. What can be decoded in two
ways (a `%` that is no escape, UTF-8 in more bytes than it needs) is refused too. What is forwarded are the
client's own bytes.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from ratelimitd.errors import ClientFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.config.model import Match

_NO_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# `/` and `.` in two, three or four bytes: to a careless decoder the same, to a comparison not.
_OVERLONG: Final = re.compile(
    rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]{2}"
)
_SLASHES: Final = re.compile(r"/+")
_PARAMETERS: Final = re.compile(r";[^/]*")


def normal_path(target: bytes) -> str:
    """The path of an origin-form target as it is compared. Bytes above 127 stand as Latin-1."""
    raw = target.split(b"?", 1)[0]
    if _NO_ESCAPE.search(raw):
        raise ClientFault(400, "the path holds a % without two hex digits")
    octets = unquote_to_bytes(raw)
    if _OVERLONG.search(octets):
        raise ClientFault(400, "the path holds an overlong encoding")
    text = octets.decode("latin-1").replace("\\", "/")
    if "\0" in text:
        raise ClientFault(400, "the path holds %00")
    path, climbs = _resolved(text)
    if climbs:
        raise ClientFault(400, "the path climbs above the root")
    return path


def _resolved(text: str) -> tuple[str, bool]:
    """The path with `//` joined and dots resolved, and whether it climbed above the root."""
    parts: list[str] = []
    climbs = False
    segments = _SLASHES.sub("/", text).split("/")
    for segment in segments[1:]:
        if segment == "..":
            climbs |= not parts
            del parts[-1:]
        elif segment != ".":
            parts.append(segment)
    if segments[-1] in (".", ".."):
        parts.append("")
    return "/" + "/".join(parts), climbs


def limit_path(path: str) -> str:
    """A normal path as limits compare it. Without its parameters it may have dots and `//` again: servers
    that ignore parameters resolve `/x/..;/login`."""
    if ";" in path:
        path = _resolved(_PARAMETERS.sub("", path))[0]
    folded = path.casefold()
    return folded[:-1] if len(folded) > 1 and folded.endswith("/") else folded


def normal_host(host: bytes) -> str:
    """A Host value as it is compared: no port, no trailing dot, lower case."""
    text = host.decode("latin-1").lower()
    name = text[: text.rindex("]") + 1] if text.startswith("[") and "]" in text else text.partition(":")[0]
    return name.removesuffix(".")


@dataclasses.dataclass(slots=True)
class RequestText:
    """One request in comparable form; `header` gives the first value of a field by its lower-case name."""

    method: str
    host: str
    path: str
    header: Callable[[str], str | None]


class Matcher:
    """A compiled `match`: all parts that are given must hold, one of the alternatives of each."""

    def __init__(self, match: Match, *, for_limit: bool) -> None:
        self._for_limit: Final = for_limit
        self._methods: Final = frozenset(match.method)
        self._hosts: Final = _patterns(
            tuple(normal_host(host.encode("latin-1", "replace")) for host in match.host)
        )
        self._headers: Final = tuple((name.lower(), _patterns((value,))) for name, value in match.header)
        paths = tuple(normal_path(path.encode("utf-8")) for path in match.path)
        self._paths: Final = _patterns(tuple(map(limit_path, paths)) if for_limit else paths, trees=True)

    def __call__(self, request: RequestText) -> bool:
        if self._methods and request.method not in self._methods:
            return False
        if self._hosts and not self._hosts.fullmatch(request.host):
            return False
        if self._paths:
            path = limit_path(request.path) if self._for_limit else request.path
            if not self._paths.fullmatch(path):
                return False
        for name, pattern in self._headers:
            value = request.header(name)
            if value is None or (pattern and not pattern.fullmatch(value)):
                return False
        return True


def _patterns(alternatives: tuple[str, ...], *, trees: bool = False) -> re.Pattern[str] | None:
    """One expression for all alternatives; `*` is any rest, and in paths `/api/*` also matches `/api`."""
    if not alternatives:
        return None
    expressions = []
    for text in alternatives:
        is_tree = trees and text.endswith("/*") and len(text) > 2
        expressions.append(_expression(text[:-2]) + "(?:/.*)?" if is_tree else _expression(text))
    return re.compile("|".join(f"(?:{expression})" for expression in expressions), re.DOTALL)


def _expression(text: str) -> str:
    """`text` with `*` for any rest. What stands between two `*` is taken where it is found first and never
    looked for again: only so does a long path cost no more than its length."""
    first, *middle = text.split("*")
    if not middle:
        return re.escape(first)
    *middle, last = middle
    found = "".join(f"(?>.*?{re.escape(part)})" for part in middle if part)
    return f"{re.escape(first)}{found}.*{re.escape(last)}"
