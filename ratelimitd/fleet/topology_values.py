"""Where the store is, as the supervisor found it and workers use it: values that travel in orders."""

from __future__ import annotations

import msgspec


class StoreServer(msgspec.Struct, frozen=True):
    """One server of the store: a host and port, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.path else f"{host}:{self.port}"


class Credentials(msgspec.Struct, frozen=True):
    """How to get in. Without `tls` nothing is encrypted; without `ca_file` the system's authorities are
    trusted. The password is in no text that is made of this."""

    username: str = ""
    password: str = ""
    database: int = 0
    tls: bool = False
    ca_file: str = ""

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, database={self.database}, tls={self.tls})"


class Topology(msgspec.Struct, frozen=True):
    """All servers that hold keys. `slots` are (first, last, index of the server) of a cluster; empty:
    there is one server for every key."""

    servers: tuple[StoreServer, ...]
    slots: tuple[tuple[int, int, int], ...] = ()
