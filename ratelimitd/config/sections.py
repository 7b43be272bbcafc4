"""The table of settings: each once, with its kind, what it does, and whether a change needs a restart.

Defaults are those of the model's fields. From this table the loader reads files, `schema` makes the JSON
Schema, and a test compares the annotated example.
"""

from __future__ import annotations

from collections import abc as collections
from typing import Any

from ratelimitd.config import addresses, files, kinds, limits, matching, model, units
from ratelimitd.config.certificates import CERTIFICATE
from ratelimitd.config.lists import NetworkList
from ratelimitd.config.reader import SPREAD, Fields, ListOf, MapOf, Section, Setting
from ratelimitd.config.replies import REPLIES
from ratelimitd.config.upstreams import UPSTREAM

MOST_WORKERS = 1_024
_DAY_MS = 86_400_000

LISTEN = Section(
    model.Listener,
    (
        Setting(
            "bind",
            kinds.text(
                addresses.BIND,
                convert=addresses.bind,
                types=kinds.TEXT_OR_WHOLE,  # a lone port is told what it lacks
                editors=addresses.BIND_PATTERN,
                write=lambda fields: fields["bind"],
            ),
            "Where clients connect: host:port, [v6]:port, unix:/path or systemd:NAME.",
            field=SPREAD,
            required=True,
        ),
        Setting(
            "proxy_protocol",
            kinds.truth(),
            "Expect a PROXY protocol header, v1 or v2, from a trusted proxy; whoever brings none is closed.",
        ),
        Setting(
            "tls",
            ListOf(CERTIFICATE, lone=True, unique=lambda certificate: certificate.certificate),
            "A certificate and its key, or a list of them, chosen by the name that the client asks for.",
            example={"certificate": "/etc/ratelimitd/site.pem", "key": "/etc/ratelimitd/site.key"},
        ),
    ),
)

ROUTE = Section(
    model.Route,
    (
        Setting("match", matching.MATCH, "What a request must look like; without it every request does."),
        Setting("upstream", matching.UpstreamName(), "Where the request goes.", required=True),
        Setting(
            "priority",
            kinds.choice("critical", "high", "normal", "sheddable"),
            "What is shed last (critical) and first (sheddable).",
        ),
        Setting("streaming", kinds.truth(), "Answers may idle, as server-sent events and long polls do."),
    ),
)

_NETWORK = kinds.text(addresses.NETWORK, convert=addresses.network)

CLIENTS = Section(
    model.Clients,
    (
        Setting(
            "trusted_proxies",
            ListOf(
                kinds.text(f"{addresses.NETWORK}, or unix", convert=addresses.network, words={"unix": "unix"})
            ),
            "Networks whose header is believed; unix: whoever comes through a Unix socket.",
            example=["10.0.0.0/8"],
        ),
        Setting(
            "header",
            kinds.choice("x-forwarded-for", "forwarded", "none"),
            "The only header that names the client; the others are removed.",
        ),
        Setting("ipv4_prefix", kinds.whole(1, 32), "Addresses that share this prefix are one client."),
        Setting("ipv6_prefix", kinds.whole(1, 128), "The same for IPv6."),
        Setting("allow", NetworkList(_NETWORK), "Never limited; also file:PATH.", example=["192.0.2.7"]),
        Setting(
            "deny", NetworkList(_NETWORK), "Answered with 403; also file:PATH.", example=["198.51.100.0/24"]
        ),
    ),
)

STORE_OPTIONS = Section(
    model.StoreOptions,
    (
        Setting(
            "entries",
            kinds.count(1_000, 1_000_000_000),
            "Size of the table: 130 MiB for each million, which hold 600,000 live keys.",
            restart=True,
        ),
        Setting("deadline", kinds.duration(1, 10_000), "Longest wait.", field="deadline_ms", restart=True),
        Setting("prefix", kinds.text(pattern=r"[!-z|~]{1,64}"), "Begins every key in Redis.", restart=True),
        Setting("nodes", kinds.whole(1, 10_000), "The least to assume in fallback.", restart=True),
        Setting("username", kinds.text(), "Name in Redis.", restart=True, example="ratelimitd"),
        Setting(
            "password_file",
            files.readable(),
            "Its password.",
            restart=True,
            example="/etc/ratelimitd/redis.password",
        ),
        Setting(
            "ca_file", files.readable(), "Authorities in PEM.", restart=True, example="/etc/ssl/redis.pem"
        ),
        Setting(
            "secret_file",
            files.readable(),
            "The fleet's hash secret, the same on every node.",
            restart=True,
            example="/etc/ratelimitd/hash.secret",
        ),
    ),
)

CPU_PRESSURE = Fields(
    model.Shedding,
    (
        Setting(
            "signal",
            kinds.choice("workers", "machine", "none"),
            "workers: their own waiting; machine: also the machine's PSI; none: no shedding.",
        ),
        Setting("busy", kinds.share(), "Share of its CPU that a worker wants before its lag counts."),
        Setting("lag", kinds.duration(1, 10_000), "Lag of a worker's loop that is pressure.", field="lag_ms"),
        Setting("stall", kinds.share(), "PSI that is pressure, with signal: machine."),
    ),
)

SHEDDING = Section(
    model.Shedding,
    (
        Setting("cpu_pressure", CPU_PRESSURE, "When requests are shed.", field=SPREAD),
        Setting("status", kinds.whole(400, 599), "Status of a shed request."),
    ),
)


def _timeout(name: str, help: str, most_ms: int = _DAY_MS) -> Setting:
    return Setting(name, kinds.duration(10, most_ms), help, field=f"{name}_ms")


TIMEOUTS = Section(
    model.Timeouts,
    (
        _timeout("head", "From the first byte (or accept) to the end of the head."),
        _timeout("body", "In each such span at least 16 KiB, or the rest, must move."),
        _timeout("idle", "Between two requests of one connection."),
        _timeout("connect", "To a server."),
        _timeout("response", "To the head of the answer."),
        _timeout("tunnel", "Silence in a tunnel such as a WebSocket.", 30 * _DAY_MS),
        _timeout("drain", "Requests in flight when the daemon stops."),
    ),
)


def _bounds_check(values: dict[str, Any]) -> collections.Iterator[tuple[str, str]]:
    default = model.Bounds()
    head, target = values.get("head", default.head), values.get("target", default.target)
    if target > head:
        yield "target", f"{units.format_size(target)} does not fit into a head of {units.format_size(head)}"


BOUNDS = Section(
    model.Bounds,
    (
        Setting("head", kinds.size(1 << 10, 1 << 20), "Request line and headers."),
        Setting("headers", kinds.whole(1, 1_000), "Number of headers."),
        Setting("target", kinds.size(64, 1 << 20), "The request's path and query."),
        Setting("body", kinds.size(1, 1 << 50, {"unlimited": 0}), "A request's body."),
        Setting(
            "buffer", kinds.size(0, 16 << 20), "A body up to this size is read before a server is chosen."
        ),
        Setting("connections", kinds.whole(1, 10_000_000), "Connections of clients at once."),
        Setting("connections_per_client", kinds.whole(1, 10_000_000), "The same, from one address."),
    ),
    check=_bounds_check,
)

HEADERS = Section(
    model.Headers,
    (
        Setting(
            "forwarded",
            kinds.choice("x-forwarded-for", "forwarded", "both", "none"),
            "The header that tells the server who the client is.",
        ),
        Setting("host", kinds.choice("preserve", "upstream"), "The client's Host, or the server's own."),
        Setting(
            "request_id", kinds.header_name({"none": ""}), "The header that carries an id for each request."
        ),
        Setting("rate_limit", kinds.truth(), "RateLimit and RateLimit-Policy on answers."),
        Setting("via", kinds.truth(), "Adds Via."),
    ),
)

LOG = Section(
    model.Log,
    (
        Setting("access", kinds.choice("json", "combined", "none"), "One line for each request."),
        Setting("destination", files.destination(), "stdout, journald or a file's path."),
        Setting("sample", kinds.fraction(), "Share of forwarded requests that is logged; all others are."),
    ),
)


def _admin(host: str = "", port: int = -1, socket: str = "", token_file: str = "") -> model.Admin:
    return model.Admin(host=host, port=port, socket=socket, token_file=token_file, required=True)


def _admin_check(values: dict[str, Any]) -> collections.Iterator[tuple[str, str]]:
    if "host" not in values and "socket" not in values:
        yield "", "there is neither `bind` nor `socket`, so nobody could reach it"


ADMIN = Section(
    model.Admin,
    (
        Setting(
            "bind",
            kinds.text(
                addresses.TCP_BIND,
                convert=lambda text: dict(zip(("host", "port"), addresses.tcp_bind(text), strict=True)),
                types=kinds.TEXT_OR_WHOLE,
                editors=addresses.TCP_BIND_PATTERN,
                write=lambda fields: f"{fields['host']}:{fields['port']}",
            ),
            "Address of metrics, API and dashboard; never a public one.",
            field=SPREAD,
            restart=True,
        ),
        Setting(
            "socket",
            files.socket(),
            "The same on a Unix socket.",
            restart=True,
            example="/run/ratelimitd/admin.sock",
        ),
        Setting(
            "token_file",
            files.readable(),
            "The token that changes over TCP need; without it TCP is read-only.",
            restart=True,
            example="/etc/ratelimitd/admin.token",
        ),
    ),
    check=_admin_check,
    build=_admin,
)

JOURNAL = Section(
    model.Journal,
    (
        Setting(
            "path",
            files.written(),
            "Where events are kept; without it in memory.",
            required=True,
            restart=True,
            example="/var/lib/ratelimitd/journal.jsonl",
        ),
        Setting(
            "keep", kinds.duration(60_000, 3_660 * _DAY_MS), "For how long.", field="keep_ms", restart=True
        ),
    ),
)

ROOT = Fields(
    model.Config,
    (
        Setting(
            "include",
            files.directory(),
            "A directory beside this file: its *.yaml belong to the configuration.",
            example="conf.d",
        ),
        Setting(
            "workers",
            kinds.whole(1, MOST_WORKERS, {"auto": 0}),
            "Processes that serve requests.",
            restart=True,
        ),
        Setting(
            "listen",
            ListOf(LISTEN, unique=lambda listener: listener.bind, noun="address"),
            "Where clients connect.",
        ),
        Setting(
            "upstreams",
            MapOf(
                kinds.key(kinds.name("the name of an upstream")),
                UPSTREAM,
                lambda name, fields: model.Upstream(name=name, **fields),
                "a mapping of names to upstreams",
            ),
            "Groups of web servers.",
            required=True,
        ),
        Setting(
            "routes",
            ListOf(ROUTE, unique=id, noun="route"),
            "Which upstream a request goes to: first match wins.",
        ),
        Setting("clients", CLIENTS, "Who a client is."),
        Setting(
            "limits",
            ListOf(limits.LIMIT, unique=lambda limit: limit.name, noun="limit"),
            "How much a client, or all of them, may ask for.",
        ),
        Setting(
            "store",
            kinds.text(addresses.STORE, convert=addresses.store),
            "Where counts are kept.",
            restart=True,
        ),
        Setting("store_options", STORE_OPTIONS, "Of the store and the table.", restart=True),
        Setting("shedding", SHEDDING, "What happens under pressure."),
        Setting("timeouts", TIMEOUTS, "How long anything may take."),
        Setting("bounds", BOUNDS, "How large anything may be."),
        Setting("headers", HEADERS, "What is added to requests and answers."),
        Setting("replies", REPLIES, "Bodies and headers of replies of its own, by status."),
        Setting("log", LOG, "The access log."),
        Setting("admin", ADMIN, "The operators' own address.", restart=True),
        Setting("journal", JOURNAL, "The record of what happened.", restart=True),
    ),
)
