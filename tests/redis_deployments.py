"""Redis as it is deployed where one server is not enough: a primary with Sentinels, and a cluster.

All on loopback ports, with the short timeouts of a test: a lost server is found out within a second.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import redis
from redis.crc import key_slot

from tests.redis_servers import Redis, binary
from tests.servers import LOOPBACK, Process, free_port, wait_until

SLOTS: Final = 16_384


class Sentinels:
    """A primary, a replica, and three Sentinels that call it `fleet`."""

    def __init__(self, directory: Path, version: str = "redis-7") -> None:
        self._stack = contextlib.ExitStack()
        self.primary = self._stack.enter_context(Redis(directory / "primary", version))
        replica_of = ("--replicaof", LOOPBACK, str(self.primary.port), "--repl-diskless-sync-delay", "0")
        self.replica = self._stack.enter_context(Redis(directory / "replica", version, replica_of))
        self.ports = [self._sentinel(directory / f"sentinel-{i}", version) for i in range(3)]
        with self.replica.client() as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the link is up")
        wait_until(self._agreed, "every Sentinel knows the replica and the other two", 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'{LOOPBACK}:{port}' for port in self.ports)}/fleet"

    def primary_port(self) -> int:
        """Who it is in the eyes of the Sentinels."""
        with _client(self.ports[0]) as client:
            return int(client.sentinel_get_master_addr_by_name("fleet")[1])

    def failover(self) -> None:
        """By an operator's order; nobody is dead."""
        with _client(self.ports[0]) as client:
            client.execute_command("SENTINEL", "FAILOVER", "fleet")

    def _sentinel(self, directory: Path, version: str) -> int:
        directory.mkdir(parents=True)
        port = free_port()
        file = directory / "sentinel.conf"
        file.write_text(
            f"bind {LOOPBACK}\nport {port}\ndir {directory}\n"
            f"sentinel monitor fleet {LOOPBACK} {self.primary.port} 2\n"
            "sentinel down-after-milliseconds fleet 500\nsentinel failover-timeout fleet 3000\n"
        )
        command = [str(binary(version)), str(file), "--sentinel"]
        process = self._stack.enter_context(Process("sentinel", command, directory))
        process.wait_for_port(port)
        return port

    def _agreed(self) -> bool:
        for port in self.ports:
            with _client(port) as client:
                state = client.sentinel_master("fleet")
                if state["num-slaves"] != 1 or state["num-other-sentinels"] != 2:
                    return False
        return True


class Cluster:
    """Three primaries with a third of the slots each, and a replica for each of them."""

    def __init__(self, directory: Path, version: str = "valkey-9") -> None:
        self._stack = contextlib.ExitStack()
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--appendonly", "no")
        more = ("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0")
        self.servers = [
            self._stack.enter_context(Redis(directory / f"node-{i}", version, (*options, *more)))
            for i in range(6)
        ]
        self.primaries, self.replicas = self.servers[:3], self.servers[3:]
        self._ids = {server: self.ask(server, "CLUSTER", "MYID") for server in self.servers}
        self._join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'{LOOPBACK}:{server.port}' for server in self.servers)}"

    def ask(self, server: Redis, *command: Any) -> Any:
        with _client(server.port) as client:
            answer = client.execute_command(*command)
            return answer.decode() if isinstance(answer, bytes) else answer

    def owner(self, key: str) -> Redis:
        """The primary of the slot in which `key` lies."""
        slot, first = key_slot(key.encode()), self.primaries[0]
        for low, high, (_, port, *_), *_ in self.ask(first, "CLUSTER", "SLOTS"):
            if low <= slot <= high:
                return next(server for server in self.servers if server.port == port)
        raise AssertionError(f"nobody has the slot of {key}")

    def move(self, key: str, target: Redis) -> None:
        """The slot of `key`, with all that lies in it, as `redis-cli --cluster reshard` moves it."""
        slot, source = key_slot(key.encode()), self.owner(key)
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._ids[source])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._ids[target])
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.ask(source, "MIGRATE", LOOPBACK, target.port, "", 0, 5000, "KEYS", *keys)
        for server in (target, source, *self.primaries):
            self.ask(server, "CLUSTER", "SETSLOT", slot, "NODE", self._ids[target])

    def _join(self) -> None:
        first = self.servers[0]
        for server in self.servers[1:]:
            self.ask(server, "CLUSTER", "MEET", LOOPBACK, first.port)
        for i, server in enumerate(self.primaries):
            slots = range(i * SLOTS // 3, (i + 1) * SLOTS // 3)
            self.ask(server, "CLUSTER", "ADDSLOTS", *slots)
        self._wait(lambda server: self._known(server) == 6, "all know each other")
        for replica, server in zip(self.replicas, self.primaries, strict=True):
            self.ask(replica, "CLUSTER", "REPLICATE", self._ids[server])
        self._wait(
            lambda server: "cluster_state:ok" in self.ask(server, "CLUSTER", "INFO"), "the cluster is ok"
        )
        for replica in self.replicas:
            wait_until(lambda r=replica: self._is_linked(r), "the replica has caught up", 20)  # type: ignore[misc]

    def _known(self, server: Redis) -> int:
        return len(self.ask(server, "CLUSTER", "NODES").splitlines())

    def _is_linked(self, server: Redis) -> bool:
        with server.client() as client:
            found = client.info("replication")
            return bool(found["role"] == "slave" and found["master_link_status"] == "up")

    def _wait(self, condition: Any, what: str, servers: Sequence[Redis] = ()) -> None:
        for server in servers or self.servers:
            wait_until(lambda s=server: condition(s), what, 20)  # type: ignore[misc]


@contextlib.contextmanager
def _client(port: int) -> Any:
    client = redis.Redis(host=LOOPBACK, port=port, protocol=2, socket_timeout=5)
    with contextlib.closing(client):
        yield client
