"""What a request must look like, as routes and limits say it: host, path, method, header."""

from __future__ import annotations

import dataclasses
import re
from typing import Any
from urllib.parse import unquote

from ratelimitd.config import kinds, model
from ratelimitd.config.document import Node, quote
from ratelimitd.config.reader import Context, Kind, ListOf, MapOf, Section, Setting, did_you_mean

_PATH = "a path such as /login or /api/*"
_HOST_PATTERN = r"[A-Za-z0-9._*-]{1,253}|\[[0-9A-Fa-f:.]+\]"


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("does not begin with /")
    if "?" in text or "#" in text:
        raise ValueError("has a query or a fragment, which are never part of a path")
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError("has a % without two hexadecimal digits")
    if "%00" in text:
        raise ValueError("has %00, which no request may have")
    if _climbs(text):
        raise ValueError("climbs above the root, which no request may do")
    return text


def _climbs(path: str) -> bool:
    depth = 0
    for segment in re.split(r"[/\\]+", unquote(path).strip("/\\")):
        depth += {"..": -1, ".": 0}.get(segment, 1)
        if depth < 0:
            return True
    return False


def _method(text: str) -> str:
    if text != text.upper():
        raise ValueError(f"is not {quote(text.upper())}: methods are case-sensitive")
    return text


def request_path() -> Kind:
    """A path to ask for."""
    return kinds.text("a path such as /healthz", r"/[!-~]*")


MATCH = Section(
    model.Match,
    (
        Setting(
            "host",
            ListOf(kinds.text("a host name without port", _HOST_PATTERN), lone=True, noun="host"),
            "Host that is asked for, or a list of them; * is any rest; case and port do not matter.",
            example="shop.example",
        ),
        Setting(
            "path",
            ListOf(kinds.text(_PATH, convert=_path), lone=True, noun="path"),
            "Path, or a list of them; * is any rest, and /api/* is also /api.",
            example="/api/*",
        ),
        Setting(
            "method",
            ListOf(
                kinds.text("a method such as GET", kinds.TOKEN_PATTERN, _method), lone=True, noun="method"
            ),
            "Method, or a list of them.",
            example=["GET", "POST"],
        ),
        Setting(
            "header",
            MapOf(kinds.key(kinds.header_name()), kinds.header_value(), noun="a mapping of names to values"),
            "Headers that must all have these values; * is any rest.",
            example={"X-Plan": "gold"},
        ),
    ),
)


@dataclasses.dataclass(frozen=True)
class UpstreamName(Kind):
    """The name of an upstream of this configuration."""

    name: kinds.Single = dataclasses.field(default_factory=lambda: kinds.name("the name of an upstream"))

    def read(self, node: Node, context: Context) -> str:
        name = str(self.name.read(node, context))
        if name not in context.upstreams:
            hint = did_you_mean(name, sorted(context.upstreams)) if context.upstreams else "there is none"
            raise node.place.error(f"unknown upstream {quote(name)}: {hint}")
        return name

    def schema(self) -> dict[str, Any]:
        return self.name.schema()
