"""What this version cannot do yet: the one table, from which a line goes when its feature arrives.

The grammar knows every setting of the manual. A value listed here is understood, checked like any other, and
then refused with its place, never silently ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# The path of a setting (`[]`: each item of a list, `.*`: each entry of a mapping), whether a value is
# refused, and the name of what it needs.
UNSUPPORTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "upstreams.*.concurrency": (lambda concurrency: concurrency < 0, "adaptive concurrency"),
}


def feature(path: str, value: Any) -> str | None:
    """The name of the missing feature that `value` at `path` needs; None when it is supported."""
    refused, name = UNSUPPORTED.get(path, (None, ""))
    return name if refused is not None and refused(value) else None
