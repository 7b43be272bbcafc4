"""What a request asks for, in the one form in which routes and limits compare it.

A path is compared without its query, percent-decoded once, `\\` as `/`, `//` joined, dots resolved; one that
holds NUL or climbs above the root is refused. Routes compare exactly after that; limits also ignore case,
one trailing `/` and `;parameters`, so that no other spelling gets around a limit. What is forwarded are the
client's own bytes.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from ratelimitd.errors import ClientFault

_SLASHES: Final = re.compile(r"/+")
_PARAMETERS: Final = re.compile(r";[^/]*")


def normal_path(target: bytes) -> str:
    """The path of an origin-form target as it is compared. Bytes above 127 stand as Latin-1."""
    raw = target.split(b"?", 1)[0]
    text = unquote_to_bytes(raw).decode("latin-1").replace("\\", "/")
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
    folded = (
        path.encode("latin-1").lower().decode("latin-1")
    )  # of ASCII only: the rest are bytes, not letters
    return folded[:-1] if len(folded) > 1 and folded.endswith("/") else folded


def normal_host(host: bytes) -> str:
    """A Host value as it is compared: no port, no trailing dot, lower case."""
    text = host.decode("latin-1").lower()
    name = text[: text.rindex("]") + 1] if text.startswith("[") and "]" in text else text.partition(":")[0]
    return name.removesuffix(".")
