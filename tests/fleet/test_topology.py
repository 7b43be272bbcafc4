"""Where the store is, as real Sentinels and a real cluster say it, and what is said when nobody knows."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratelimitd.config.model import StoreOptions
from ratelimitd.errors import StoreFault
from ratelimitd.fleet.topology import Address, finder
from ratelimitd.fleet.topology_values import Credentials, StoreServer, Topology
from tests.redis_servers import SLOTS, VERSIONS, Cluster, Redis, Sentinels
from tests.servers import LOOPBACK, free_port

# Its servers take seconds to find each other: they are started once.
pytestmark = pytest.mark.xdist_group("topology")

NONE = StoreOptions()
BOTH = [pytest.param("redis-6.2", marks=pytest.mark.slow), "valkey-9"]  # the oldest and the newest


@pytest.fixture(scope="module", params=BOTH)
def sentinels(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sentinels]:
    with Sentinels(tmp_path_factory.mktemp("sentinels"), request.param) as them:
        yield them


@pytest.fixture(scope="module", params=BOTH)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), request.param) as nodes:
        yield nodes


def found(url: str, options: StoreOptions = NONE, password: str = "") -> Topology:
    return asyncio.run(finder(url, options, password).find())


def unknown(url: str) -> str:
    """What the operator reads when nobody knows where the store is."""
    with pytest.raises(StoreFault) as fault:
        found(url)
    return str(fault.value)


@pytest.mark.parametrize(
    ("url", "servers", "credentials"),
    [
        ("redis://10.0.0.1", ["10.0.0.1:6379"], Credentials()),
        ("redis://10.0.0.1:7000/3", ["10.0.0.1:7000"], Credentials(database=3)),
        ("redis://[2001:db8::1]:7000/", ["[2001:db8::1]:7000"], Credentials()),
        ("redis://[2001:db8::1]", ["[2001:db8::1]:6379"], Credentials()),
        ("rediss://redis.example:7000", ["redis.example:7000"], Credentials(tls=True)),
        ("redis://u:p%40ss@redis.example", ["redis.example:6379"], Credentials("u", "p@ss")),
        ("redis://:p@redis.example", ["redis.example:6379"], Credentials("", "p")),
        ("redis+unix:///run/redis.sock", ["unix:/run/redis.sock"], Credentials()),
        ("redis+unix:///run/redis.sock?db=2", ["unix:/run/redis.sock"], Credentials(database=2)),
    ],
)
def test_one_server(url: str, servers: list[str], credentials: Credentials) -> None:
    one = finder(url, NONE, "")
    assert [str(server) for server in asyncio.run(one.find()).servers] == servers
    assert one.credentials == credentials
    assert "p%40ss" not in one.shown


def test_options_come_before_the_url() -> None:
    one = finder("redis://u:p@redis.example", StoreOptions(username="v", ca_file="/ca.pem"), "q")
    assert one.credentials == Credentials("v", "q", ca_file="/ca.pem")


def test_sentinels_have_their_own_user() -> None:
    address = Address.read("rediss+sentinel://u:p@a,b:7000/limits/2")
    assert address.servers == (StoreServer("a", 26379), StoreServer("b", 7000))
    assert (address.name, address.database, address.tls) == ("limits", 2, True)
    assert address.shown == "rediss+sentinel://a,b:7000/limits/2"
    master = finder("rediss+sentinel://u:p@a,b:7000/limits/2", StoreOptions(username="v"), "q")
    assert master.credentials == Credentials("v", "q", 2, tls=True)


def test_sentinels_name_the_master(sentinels: Sentinels) -> None:
    assert found(sentinels.url) == Topology((StoreServer(LOOPBACK, sentinels.master.port),))
    after = sentinels.failover()
    assert found(sentinels.url) == Topology((StoreServer(LOOPBACK, after.port),))


def test_one_sentinel_is_enough(sentinels: Sentinels) -> None:
    hung, silent = sentinels.sentinels[0], free_port()
    hung.pause()
    try:
        url = f"{sentinels.url.rpartition('/')[0]},{LOOPBACK}:{silent}/{sentinels.NAME}"
        assert found(url) == Topology((StoreServer(LOOPBACK, sentinels.master_port(sentinels.sentinels[1])),))
    finally:
        hung.resume()


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_the_latest_election_is_believed(kind: str) -> None:
    """Who was cut off still tells of the master before it, and may be the first in the URL."""

    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            ports = []
            for epoch, master in ((3, 6001), (5, 6002), (4, 6003)):
                ports.append(free_port())
                answers = functools.partial(_answer, _told(kind, epoch, master))
                await stack.enter_async_context(await asyncio.start_server(answers, LOOPBACK, ports[-1]))
            hosts = ",".join(f"{LOOPBACK}:{port}" for port in ports)
            url = f"redis+sentinel://{hosts}/limits" if kind == "sentinel" else f"redis+cluster://{hosts}"
            assert (await finder(url, NONE, "").find()).servers == (StoreServer(LOOPBACK, 6002),)

    asyncio.run(test())


def _told(kind: str, epoch: int, master: int) -> list[bytes]:
    """The replies, PONG first, of one that last heard of this election."""
    if kind == "sentinel":
        fields = ["ip", LOOPBACK, "port", str(master), "config-epoch", str(epoch)]
        return [b"+PONG\r\n", b"*6\r\n" + b"".join(map(_bulk, fields))]
    slots = b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n" + _bulk(LOOPBACK) + b":%d\r\n" % master
    info = f"cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n"
    return [b"+PONG\r\n", _bulk(info), slots]


def _bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


async def _answer(replies: list[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each reply to one command: the link asks them one by one."""
    for reply in replies:
        await reader.read(1024)
        writer.write(reply)
    await reader.read()
    writer.close()


def test_a_name_that_no_sentinel_knows(sentinels: Sentinels) -> None:
    fault = unknown(sentinels.url.replace(f"/{sentinels.NAME}", "/others"))
    assert fault.startswith("no Sentinel says where others is: ")
    assert fault.count("does not know this name: it stands in its line `sentinel monitor`") == 3


def test_no_sentinel_at_all() -> None:
    port = free_port()
    assert unknown(f"redis+sentinel://{LOOPBACK}:{port}/limits") == (
        f"no Sentinel says where limits is: {LOOPBACK}:{port} cannot be reached: connection refused"
    )


def test_a_cluster_names_its_masters(cluster: Cluster) -> None:
    topology = found(f"redis+cluster://{LOOPBACK}:{cluster.nodes[1].port}")
    assert topology.servers == tuple(StoreServer(LOOPBACK, node.port) for node in cluster.masters)
    assert sum(last + 1 - first for first, last, _ in topology.slots) == SLOTS


def test_a_slot_that_has_moved(cluster: Cluster) -> None:
    before, (source, target, _) = found(cluster.url), cluster.masters
    cluster.move_slot(0, target)
    try:
        after = found(cluster.url)
        assert before.slots[0] == (0, SLOTS // 3 - 1, 0)
        assert after.slots[:2] == ((0, 0, 0), (1, SLOTS // 3 - 1, 1))
        assert after.servers[0].port == target.port
    finally:
        cluster.move_slot(0, source)


def test_a_cluster_with_a_part_missing(cluster: Cluster) -> None:
    finds = finder(f"redis+cluster://{LOOPBACK}:{cluster.nodes[0].port}", NONE, "")
    asyncio.run(finds.find())
    cluster.nodes[0].kill()
    try:
        with pytest.raises(StoreFault) as fault:
            for _ in range(400):
                asyncio.run(finds.find())  # asks the others: the one in the URL is gone
                time.sleep(0.02)
        # Until the others have noticed, they tell of it.
        assert "the cluster is not OK" in str(fault.value)
        assert "says cluster_state:fail" in str(fault.value)
        assert "cannot be reached: connection refused" in str(fault.value)
    finally:
        cluster.nodes[0].start()
        cluster.wait_whole()


def test_a_server_that_is_no_cluster(tmp_path: Path) -> None:
    with Redis(tmp_path) as server:
        fault = unknown(server.url.replace("redis:", "redis+cluster:"))
    assert "is no node of a cluster: write redis:// for redis+cluster://" in fault


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rights_that_are_needed(version: str, tmp_path: Path) -> None:
    """For a cluster: its two questions, and nothing that only an administrator may ask."""
    options = ["--user", "limiter", "on", ">right", "~rl:*", "-@all", "+ping", "+auth", "+info"]
    options += ["+cluster|slots", "+cluster|info", "--cluster-enabled", "yes"]
    with Redis(tmp_path, version, options) as server:
        url = server.url.replace("redis:", "redis+cluster:")
        with pytest.raises(StoreFault, match=f"says cluster_state:fail, 0 of {SLOTS} slots"):
            found(url, StoreOptions(username="limiter"), "right")
        with pytest.raises(StoreFault, match="refuses the user or the password"):
            found(url, StoreOptions(username="limiter"), "wrong")
