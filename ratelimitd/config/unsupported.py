"""What this version cannot do yet: the one table, from which a line goes when its feature arrives.

The grammar knows every setting of the manual. A value listed here is understood, checked like any other, and
then refused with its place, never silently ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ratelimitd.config import model


def _not(default: Any) -> Callable[[Any], bool]:
    return lambda value: bool(value != default)


_REDIS = "a store in Redis"
_STORE = model.StoreOptions()

# The path of a setting (`[]`: each item of a list, `.*`: each entry of a mapping), whether a value is
# refused, and the name of what it needs.
UNSUPPORTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "upstreams.*.concurrency": (lambda concurrency: concurrency < 0, "adaptive concurrency"),
    "store": (lambda store: store != "memory", "stores other than `memory`"),
    "store_options.deadline": (_not(_STORE.deadline_ms), _REDIS),
    "store_options.prefix": (_not(_STORE.prefix), _REDIS),
    "store_options.nodes": (_not(_STORE.nodes), _REDIS),
    "store_options.username": (bool, _REDIS),
    "store_options.password_file": (bool, _REDIS),
    "store_options.ca_file": (bool, _REDIS),
    "store_options.secret_file": (bool, _REDIS),
}


def feature(path: str, value: Any) -> str | None:
    """The name of the missing feature that `value` at `path` needs; None when it is supported."""
    refused, name = UNSUPPORTED.get(path, (None, ""))
    return name if refused is not None and refused(value) else None
