"""The validated configuration: frozen values, nothing else.

`load` makes them from YAML, the command line from flags; the supervisor sends them to the workers as one
msgpack message. Durations are whole milliseconds (`_ms`), windows whole microseconds (`window_us`), sizes
bytes, shares fractions of one. A field that the configuration leaves out holds the default of the manual.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Rate(msgspec.Struct, frozen=True):
    """At most `count` units in any window of `window_us` microseconds."""

    count: int
    window_us: int


class Match(msgspec.Struct, frozen=True):
    """What a request must look like; an empty part matches everything."""

    host: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    method: tuple[str, ...] = ()
    header: tuple[tuple[str, str], ...] = ()


class Server(msgspec.Struct, frozen=True):
    """One web server: `host` and `port`, or the path of a Unix socket."""

    url: str
    host: str = ""
    port: int = 0
    unix_path: str = ""
    tls: bool = False
    weight: int = 1
    backup: bool = False
    max_connections: int = 0


class ServerTls(msgspec.Struct, frozen=True):
    """How https:// servers are checked; empty: by the system's authorities, for the name in the URL."""

    ca: str = ""
    verify: bool = True
    server_name: str = ""


class Health(msgspec.Struct, frozen=True):
    path: str
    interval_ms: int = 2_000
    timeout_ms: int = 1_000
    rise: int = 2
    fall: int = 3


class Upstream(msgspec.Struct, frozen=True):
    name: str
    servers: tuple[Server, ...]
    balance: Literal["least_requests", "round_robin", "client"] = "least_requests"
    health: Health | None = None
    eject_failures: int = 5
    eject_for_ms: int = 10_000
    slow_start_ms: int = 0
    concurrency: int = 0  # 0: unlimited, -1: adaptive
    queue_size: int = 1_000
    queue_wait_ms: int = 150
    keepalive: int = 64
    keepalive_idle_ms: int = 1_000
    retry_attempts: int = 1
    retry_budget: float = 0.2
    tls: ServerTls = ServerTls()


class Certificate(msgspec.Struct, frozen=True):
    """Paths of a certificate chain and its key, in PEM, and what the certificate said when they were read:
    its DNS names, its end in seconds since 1970, its SHA-256 in hex."""

    certificate: str
    key: str
    names: tuple[str, ...] = ()
    expires_s: int = 0
    fingerprint: str = ""


class Listener(msgspec.Struct, frozen=True):
    """Where clients connect: `bind` as written, and what it means."""

    bind: str
    host: str = ""
    port: int = 0
    unix_path: str = ""
    systemd_name: str = ""
    proxy_protocol: bool = False
    tls: tuple[Certificate, ...] = ()


class Route(msgspec.Struct, frozen=True):
    upstream: str
    match: Match = Match()
    priority: Literal["critical", "high", "normal", "sheddable"] = "normal"
    streaming: bool = False


class Clients(msgspec.Struct, frozen=True):
    """Networks are in CIDR notation; `unix` in trusted_proxies trusts Unix sockets."""

    trusted_proxies: tuple[str, ...] = ()
    header: Literal["x-forwarded-for", "forwarded", "none"] = "x-forwarded-for"
    ipv4_prefix: int = 32
    ipv6_prefix: int = 64
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class CostHeader(msgspec.Struct, frozen=True):
    """The cost that a trusted proxy names in a header, at most `max_cost`."""

    name: str
    max_cost: int


class Ban(msgspec.Struct, frozen=True):
    after: int
    within_ms: int
    for_ms: int


class Limit(msgspec.Struct, frozen=True):
    """One limit: exactly one of `rates` and `concurrent` is given.

    `per` holds `client`, `global`, `host`, `path`, `method` or `header:NAME`, `cookie:NAME`, `query:NAME`.
    `overrides` holds the rates of single keys, a tuple for each key as it is written in the file.
    """

    name: str
    per: tuple[str, ...]
    rates: tuple[Rate, ...] = ()
    concurrent: int = 0
    missing: Literal["client", "skip", "deny"] = "client"
    match: Match = Match()
    cost: int = 1
    cost_header: CostHeader | None = None
    action: Literal["reject", "observe"] = "reject"
    on_store_failure: Literal["local", "open", "closed"] = "local"
    overrides: tuple[tuple[str, tuple[Rate, ...]], ...] = ()
    ban: Ban | None = None


class StoreOptions(msgspec.Struct, frozen=True):
    entries: int = 1_000_000
    deadline_ms: int = 25
    prefix: str = "rl:"
    nodes: int = 1
    username: str = ""
    password_file: str = ""
    ca_file: str = ""
    secret_file: str = ""


class Shedding(msgspec.Struct, frozen=True):
    signal: Literal["workers", "machine", "none"] = "workers"
    busy: float = 0.9
    lag_ms: int = 20
    stall: float = 0.6
    status: int = 429


class Timeouts(msgspec.Struct, frozen=True):
    head_ms: int = 10_000
    body_ms: int = 30_000
    idle_ms: int = 75_000
    connect_ms: int = 2_000
    response_ms: int = 60_000
    tunnel_ms: int = 3_600_000
    drain_ms: int = 30_000


class Bounds(msgspec.Struct, frozen=True):
    """Largest sizes accepted; `body` is 0 for unlimited."""

    head: int = 32_768
    headers: int = 100
    target: int = 8_192
    body: int = 0
    buffer: int = 65_536
    connections: int = 20_000
    connections_per_client: int = 200


class Headers(msgspec.Struct, frozen=True):
    forwarded: Literal["x-forwarded-for", "forwarded", "both", "none"] = "x-forwarded-for"
    host: Literal["preserve", "upstream"] = "preserve"
    request_id: str = "x-request-id"  # empty: none
    rate_limit: bool = True
    via: bool = False


class ReplyOverride(msgspec.Struct, frozen=True):
    """An operator's own body and headers for replies of one status; the body is read with the file."""

    status: int
    body: bytes = b""
    content_type: str = "text/html"
    headers: tuple[tuple[str, str], ...] = ()


class Log(msgspec.Struct, frozen=True):
    access: Literal["json", "combined", "none"] = "json"
    destination: str = "stdout"
    sample: float = 1.0


class Admin(msgspec.Struct, frozen=True):
    """`required`: the configuration names the address, so that one in use is an error and not a warning."""

    host: str = "127.0.0.1"
    port: int = 10_429  # -1: no TCP address
    socket: str = ""
    token_file: str = ""
    required: bool = False


class Journal(msgspec.Struct, frozen=True):
    """`path` is empty for a journal in memory."""

    path: str = ""
    keep_ms: int = 30 * 86_400_000


class Config(msgspec.Struct, frozen=True):
    upstreams: tuple[Upstream, ...]
    listen: tuple[Listener, ...] = (Listener(bind="127.0.0.1:8080", host="127.0.0.1", port=8080),)
    workers: int = 0  # 0: one for each CPU that the process may use
    routes: tuple[Route, ...] = ()  # load adds the route of a lone upstream
    clients: Clients = Clients()
    limits: tuple[Limit, ...] = ()
    store: str = "memory"
    store_options: StoreOptions = StoreOptions()
    shedding: Shedding = Shedding()
    timeouts: Timeouts = Timeouts()
    bounds: Bounds = Bounds()
    headers: Headers = Headers()
    replies: tuple[ReplyOverride, ...] = ()
    log: Log = Log()
    admin: Admin = Admin()
    journal: Journal = Journal()
