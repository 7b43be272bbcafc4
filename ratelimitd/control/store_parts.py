"""Puts the supervisor's side of the store together: what the configuration says of it, and whom it tells.

Files that are named are read here, once, at the start: one that cannot be used is an error with a cause.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ratelimitd.control.heartbeat import Heartbeat
from ratelimitd.control.push import Push
from ratelimitd.control.store import Node, Place, Store
from ratelimitd.errors import StartError
from ratelimitd.fleet.signs import SECRET_SIZE
from ratelimitd.fleet.topology import finder
from ratelimitd.segment.store import StoreWords

if TYPE_CHECKING:
    from ratelimitd.config.model import Config
    from ratelimitd.control.changes import Changes
    from ratelimitd.control.journal import Note
    from ratelimitd.control.reload import Reloader
    from ratelimitd.control.store_session import Session
    from ratelimitd.control.workers import Workers
    from ratelimitd.limits.table import Table
    from ratelimitd.segment.memory import Segment

LEAST_SECRET: Final = 16


def new_store(config: Config, note: Note) -> Store:
    """The store of a configuration, not yet asked for anything; StartError for a file that is of no use."""
    options = config.store_options
    secret = read_secret(options.secret_file) if options.secret_file else None
    password = read_password(options.password_file) if options.password_file else ""
    found = finder(config.store, options, password)
    place = Place(config.store, found.find, found.credentials)
    return Store(place, options, Heartbeat(options.prefix, secret), note)


def joined(segment: Segment, table: Table, workers: Workers, reloader: Reloader, changes: Changes) -> Node:
    """Whom the store tells, now that there is a segment."""
    words = StoreWords(segment.memory)
    prefix = reloader.config.store_options.prefix
    push = Push(table, segment.registry, words, prefix, lambda: reloader.config)

    def adopt(secret: bytes) -> None:
        segment.adopt(secret)
        changes.adopt()
        reloader.renew()

    async def each_beat(session: Session, is_doubtful: bool) -> None:
        await changes.beat(session, is_doubtful=is_doubtful)

    return Node(words, workers.send_store, push.run, adopt, each_beat, changes.close)


def read_secret(path: str) -> bytes:
    """The hash secret from what a file says, however long that is."""
    text = _read(path, "secret_file")
    if len(text) < LEAST_SECRET:
        raise StartError(
            f"store_options.secret_file {path} has {len(text)} characters, and needs {LEAST_SECRET} or "
            f"more: `head -c 32 /dev/urandom | base64 > {path}`, the same file on every node"
        )
    return hashlib.blake2b(text, digest_size=SECRET_SIZE).digest()


def read_password(path: str) -> str:
    try:
        text = _read(path, "password_file").decode()
    except UnicodeDecodeError:
        raise StartError(f"store_options.password_file {path} holds no text in UTF-8") from None
    if not text:
        raise StartError(
            f"store_options.password_file {path} is empty: write the password of the store into it"
        )
    return text


def _read(path: str, setting: str) -> bytes:
    try:
        return Path(path).read_bytes().strip()
    except OSError as error:
        raise StartError(
            f"cannot read {path}, which store_options.{setting} names: {error.strerror}"
        ) from None
