"""Warnings about a store that is shared, and about files that hold secrets.

As in `advice`, each rule yields a place in the tree and a sentence that says what will happen and what to do.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator

from ratelimitd.config import addresses, model

Advice = tuple[tuple[str | int, ...], str]


def found(config: model.Config) -> list[Advice]:
    return [advice for rule in _RULES for advice in rule(config)]


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _password_in_the_clear(config: model.Config) -> Iterator[Advice]:
    """Whoever sees the network on the way sees the password, and can change every limit by it."""
    if config.store.startswith("rediss"):
        return
    has_password = addresses.has_password(config.store) or bool(config.store_options.password_file)
    far = [host for host in addresses.store_hosts(config.store) if not is_loopback(host)]
    if has_password and far:
        sentence = (
            f"the password of the store goes to {', '.join(far)} unencrypted: use rediss:// where the server "
            "has TLS, or see to it that nobody can listen on the way"
        )
        yield ("store",), sentence


def _share_at_a_cold_start(config: model.Config) -> Iterator[Advice]:
    """Who has never met the store knows of no other node."""
    local = [limit.name for limit in config.limits if limit.rates and limit.on_store_failure == "local"]
    if config.store != "memory" and config.store_options.nodes == 1 and local:
        sentence = (
            "store_options.nodes is 1: each node that starts while the store is away lets in all of "
            f"{local[0]!r} by itself. Set it to the number of your nodes, and each keeps to its share"
        )
        yield (
            ("store_options", "nodes") if config.store_options != model.StoreOptions() else ("store",),
            sentence,
        )


def _secrets_that_all_may_read(config: model.Config) -> Iterator[Advice]:
    options, admin = config.store_options, config.admin
    for place, path in (
        (("store_options", "password_file"), options.password_file),
        (("store_options", "secret_file"), options.secret_file),
        (("admin", "token_file"), admin.token_file),
    ):
        if path and _is_readable_by_all(path):
            yield place, f"every user of this machine can read {path}: `chmod o= {path}`"


def _is_readable_by_all(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:  # the start tells of it
        return False


_RULES = (_password_in_the_clear, _share_at_a_cold_start, _secrets_that_all_may_read)
