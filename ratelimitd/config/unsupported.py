"""What this version cannot do yet: the one table, from which a line goes when its feature arrives.

The grammar knows every setting of the manual. A value listed here is understood, checked like any other, and
then refused with its place, never silently ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ratelimitd.config import model


def _always(_: Any) -> bool:
    return True


def _other_than(struct: type[msgspec.Struct]) -> Callable[[Any], bool]:
    """True for fields that differ from the defaults of `struct`."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(struct)}
    return lambda values: any(defaults[name] != value for name, value in values.items())


def _not(default: Any) -> Callable[[Any], bool]:
    return lambda value: bool(value != default)


_REDIS = "a store in Redis"
_STORE = model.StoreOptions()

# The path of a setting (`[]`: each item of a list, `.*`: each entry of a mapping), whether a value is
# refused, and the name of what it needs.
UNSUPPORTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "listen[].proxy_protocol": (bool, "the PROXY protocol"),
    "listen[].tls": (_always, "TLS towards clients"),
    "upstreams.*.servers[]": (lambda server: server.tls, "https:// servers"),
    "upstreams.*.servers[].max_connections": (bool, "bounds of connections to one server"),
    "upstreams.*.balance": (lambda balance: balance == "client", "balancing by client"),
    "upstreams.*.health": (_always, "health checks"),
    "upstreams.*.slow_start": (bool, "slow start"),
    "upstreams.*.concurrency": (bool, "concurrency limits other than `unlimited`"),
    "upstreams.*.queue": (_other_than(model.Upstream), "queues"),
    "upstreams.*.retry": (_other_than(model.Upstream), "retries other than the default"),
    "upstreams.*.tls": (_always, "TLS towards servers"),
    "routes[].streaming": (bool, "streaming routes"),
    "store": (lambda store: store != "memory", "stores other than `memory`"),
    "store_options.deadline": (_not(_STORE.deadline_ms), _REDIS),
    "store_options.prefix": (_not(_STORE.prefix), _REDIS),
    "store_options.nodes": (_not(_STORE.nodes), _REDIS),
    "store_options.username": (bool, _REDIS),
    "store_options.password_file": (bool, _REDIS),
    "store_options.ca_file": (bool, _REDIS),
    "store_options.secret_file": (bool, _REDIS),
    "log.destination": (lambda destination: destination == "journald", "logging to journald"),
}


def feature(path: str, value: Any) -> str | None:
    """The name of the missing feature that `value` at `path` needs; None when it is supported."""
    refused, name = UNSUPPORTED.get(path, (None, ""))
    return name if refused is not None and refused(value) else None
