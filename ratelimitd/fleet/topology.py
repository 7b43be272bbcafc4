"""Where the store is: what its URL says, and what Sentinels or the nodes of a cluster say of themselves.

A plain URL names one place; nobody is asked. Sentinels and nodes are asked all at once, each for a moment,
and who knows of the latest election is believed: one that was cut off still tells of the master before it. It
is the supervisor that asks; workers connect where it tells them to.
"""

from __future__ import annotations

import asyncio
import dataclasses
import urllib.parse
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.link import Link
from ratelimitd.fleet.topology_values import Credentials, StoreServer, Topology

if TYPE_CHECKING:
    from ratelimitd.config.model import StoreOptions

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
SLOTS: Final = 16_384
_ASK_S: Final = 0.3


@dataclasses.dataclass(frozen=True)
class Address:
    """A store's URL, read: what `config.addresses.store` has accepted."""

    kind: str  # redis, sentinel, cluster, unix
    servers: tuple[StoreServer, ...]
    tls: bool
    username: str
    password: str
    name: str  # of the master, for Sentinels
    database: int
    shown: str  # the URL without what is secret

    @classmethod
    def read(cls, url: str) -> Self:
        parts = urllib.parse.urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        kind = kind or "redis"
        user, _, hosts = parts.netloc.rpartition("@")
        username, _, password = (urllib.parse.unquote(text) for text in user.partition(":"))
        path = urllib.parse.unquote(parts.path)
        query = urllib.parse.parse_qs(parts.query)
        servers: tuple[StoreServer, ...]
        if kind == "unix":
            servers = (StoreServer(path=path),)
            name, database = "", query.get("db", ["0"])[0]
        else:
            port = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
            servers = tuple(_server(host, port) for host in hosts.split(","))
            name, database = "", path.strip("/")
            if kind == "sentinel":
                name, _, database = path.strip("/").partition("/")
        shown = urllib.parse.urlunsplit(parts._replace(netloc=hosts))
        tls = scheme == "rediss"
        return cls(kind, servers, tls, username, password, name, int(database or 0), shown)


class Finder(Protocol):
    """`shown` is the store's URL without secrets, `credentials` are for the servers that `find` names."""

    shown: str
    credentials: Credentials

    async def find(self) -> Topology:
        """Where the servers are now; StoreFault when nobody knows, which names everybody that was asked."""


def finder(url: str, options: StoreOptions, password: str) -> Finder:
    """Of the store at `url`. `password` is what store_options.password_file holds."""
    address = Address.read(url)
    username = options.username
    if address.kind != "sentinel":  # there the URL's user is that of the Sentinels
        username, password = username or address.username, password or address.password
    credentials = Credentials(username, password, address.database, address.tls, options.ca_file)
    if address.kind == "sentinel":
        return _Sentinels(address, credentials)
    if address.kind == "cluster":
        return _Cluster(address, credentials)
    return _One(address, credentials)


class _One:
    """One server, at one place for ever."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self.shown = address.shown
        self.credentials = credentials
        self._topology = Topology(address.servers)

    async def find(self) -> Topology:
        return self._topology


class _Sentinels:
    """The master of a name, as the Sentinel says that knows of the latest election."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self.shown = address.shown
        self.credentials = credentials
        self._name = address.name
        self._sentinels = address.servers
        self._own = Credentials(address.username, address.password, 0, address.tls, credentials.ca_file)

    async def find(self) -> Topology:
        answers, faults = await _ask_all(self._sentinels, self._own, ("SENTINEL", "MASTER", self._name))
        masters = [_pairs(answer[0]) for answer in answers.values()]
        if not masters:
            raise StoreFault(f"no Sentinel says where {self._name} is: {faults}")
        latest = max(masters, key=lambda master: int(master.get("config-epoch", "0")))
        return Topology((StoreServer(latest["ip"], int(latest["port"])),))


class _Cluster:
    """The masters of all slots. Whoever was a master is asked too: those in the URL may be gone."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        self.shown = address.shown
        self.credentials = credentials
        self._seeds = address.servers
        self._known: tuple[StoreServer, ...] = ()

    async def find(self) -> Topology:
        nodes = dict.fromkeys((*self._seeds, *self._known))
        answers, faults = await _ask_all(
            tuple(nodes), self.credentials, ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")
        )
        if not answers:
            raise StoreFault(f"no node of the cluster answers: {faults}")
        good: dict[int, Topology] = {}
        said = []
        for node, (text, slots) in answers.items():
            info = dict(line.split(":", 1) for line in text.decode().split() if ":" in line)
            topology = _masters(slots, node)
            covered = sum(last + 1 - first for first, last, _ in topology.slots)
            if info.get("cluster_state") == "ok" and covered == SLOTS:
                good[int(info.get("cluster_current_epoch", "0"))] = topology
            said.append(f"{node} says cluster_state:{info.get('cluster_state')}, {covered} of {SLOTS} slots")
        if not good:
            raise StoreFault(f"the cluster is not OK: {'; '.join((*said, *filter(None, [faults])))}")
        latest = good[max(good)]
        self._known = latest.servers
        return latest


async def _ask_all(
    servers: tuple[StoreServer, ...], credentials: Credentials, *commands: tuple[str, ...]
) -> tuple[dict[StoreServer, list[Any]], str]:
    """The answers of those who gave them, and why the others did not."""
    results = await asyncio.gather(
        *(_ask(server, credentials, commands) for server in servers), return_exceptions=True
    )
    answers, faults = {}, []
    for server, result in zip(servers, results, strict=True):
        if isinstance(result, StoreFault):
            faults.append(str(result).removeprefix("the store at "))
        elif isinstance(result, BaseException):
            raise result
        else:
            answers[server] = result
    return answers, "; ".join(faults)


async def _ask(
    server: StoreServer, credentials: Credentials, commands: tuple[tuple[str, ...], ...]
) -> list[Any]:
    loop = asyncio.get_running_loop()
    link = await Link.open(loop, server, credentials, _nobody_asked, _nobody_cares, _ASK_S)
    try:
        async with asyncio.timeout(_ASK_S):
            return [await link.ask(loop, *command) for command in commands]
    except TimeoutError:
        raise StoreFault(f"the store at {server} did not answer within {_ASK_S:g} s") from None
    finally:
        link.close()


def _masters(reply: list[Any], asked: StoreServer) -> Topology:
    """What CLUSTER SLOTS says: (first, last, [host, port, ...] of the master, replicas...) for each range."""
    servers: dict[StoreServer, int] = {}
    slots = []
    for first, last, (host, port, *_), *_ in sorted(reply, key=lambda entry: int(entry[0])):
        # A node that does not know its own address leaves it empty: it is where it was asked.
        server = StoreServer(host.decode() if host else asked.host, port)
        slots.append((first, last, servers.setdefault(server, len(servers))))
    return Topology(tuple(servers), tuple(slots))


def _server(text: str, default_port: int) -> StoreServer:
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    return StoreServer(host.strip("[]"), int(port or default_port))


def _pairs(reply: list[bytes]) -> dict[str, str]:
    texts = [text.decode() for text in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _nobody_asked(_token: object, _reply: object) -> None:
    """Each question has its own answer."""


def _nobody_cares(_: StoreFault) -> None:
    """Whoever asks is told by the answer that does not come."""
