"""Some daemons with one store, as one thing: started, loaded, killed, and judged by what all admitted.

Each node writes an access log of its own; a request counts at its `decided` instant. What a killed node had
not written yet is missing there, so a log can show too little and never too much.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.daemon import Daemon
from tests.fleet_load import Answer, FleetLoad, statuses, wait_quantile_us
from tests.servers import LOOPBACK, free_port, wait_until
from tests.windows import worst_window

REFUSING: Final = frozenset({"limited", "shed", "denied", "malformed"})
SLACK_S: Final = 2.0  # for a machine on which everything waits for a CPU
_US: Final = 1_000_000


def now_us() -> int:
    """The wall clock, which is that of a store on this machine."""
    return time.time_ns() // 1000


def decided_us(entry: dict[str, Any]) -> int:
    """When the request of this line of an access log was decided."""
    return int(entry["decided"])


@dataclasses.dataclass(frozen=True)
class Rate:
    """One limit, by default per path, for the paths PREFIX1, PREFIX2 and so on, as its own log judges it."""

    count: int
    window_s: float
    prefix: str = "/k"
    name: str = "shared"
    on_store_failure: str = "local"
    ban: str = ""
    per: str = "path"

    @property
    def window_us(self) -> int:
        return round(self.window_s * _US)

    @property
    def yaml(self) -> str:
        return (
            f"{{name: {self.name}, per: {self.per}, rate: {self.count}/{round(self.window_s * 1000)}ms, "
            f"match: {{path: '{self.prefix}*'}}, on_store_failure: {self.on_store_failure}"
            f"{', ban: ' + self.ban if self.ban else ''}}}"
        )

    def paths(self, number: int) -> list[str]:
        return [f"{self.prefix}{i}" for i in range(number)]

    def share(self, nodes: int) -> int:
        return max(1, self.count // nodes)

    def most_while_lost(self, nodes: int) -> int:
        """In the window that straddles the loss or the return of the store."""
        return self.count + (nodes - 1) * self.share(nodes)


class Node:
    """One place in the fleet: a port, a file, an access log, and the daemon that is there just now."""

    def __init__(self, fleet: Fleet, index: int, host: str, prefix: Sequence[str]) -> None:
        self.fleet, self.index, self.host = fleet, index, host
        self.directory = fleet.directory / f"node-{index}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.file = self.directory / "ratelimitd.yaml"
        self.log = self.directory / "access.log"
        self.socket = self.directory / "admin.sock"
        self.configure()
        self.daemon = self._start(prefix)

    def _start(self, prefix: Sequence[str]) -> Daemon:
        arguments = ["-c", str(self.file)]
        return Daemon(
            self.directory,
            arguments,
            workers=self.fleet.workers,
            port=self.port,
            host=self.host,
            prefix=prefix,
        )

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def configure(self, limits: Iterable[Rate] | None = None) -> None:
        """Writes its file, with the limits of the fleet unless others are given."""
        chosen = ", ".join(rate.yaml for rate in limits or self.fleet.limits)
        self.file.write_text(
            f"upstreams: {{web: {{servers: ['{self.fleet.upstream}'], concurrency: unlimited}}}}\n"
            f"store: '{self.fleet.store}'\nstore_options: {{{self.fleet.options}}}\n"
            f"limits: [{chosen}]\nlog: {{access: json, destination: {self.log}}}\n"
            f"admin: {{socket: {self.socket}}}\nshedding: {{cpu_pressure: {{signal: none}}}}\n"
            "bounds: {connections_per_client: 10000}\n"
        )

    def restart(self) -> None:
        """Another daemon in the place of one that has ended, with the file as it is."""
        self.put_back()
        self.daemon.wait_ready(60)

    def put_back(self) -> None:
        """As `restart`, and nobody waits until it serves."""
        self.daemon = self._start(())

    def reload(self) -> None:
        """Its file as it is now."""
        before = self._reloads()
        self.daemon.send(signal.SIGHUP)
        wait_until(lambda: self._reloads() > before, f"node {self.index} has reloaded; {self.daemon.stderr}")

    def _reloads(self) -> float:
        return self.daemon.metrics().total("ratelimitd_config_reloads_total", result="success")

    def ask(self, path: str) -> int:
        """The status of one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        with closing(connection):
            connection.request("GET", path)
            return connection.getresponse().status

    def kill(self) -> None:
        """Ends every process of the node at once, whatever it holds."""
        pids = [*self.daemon.workers(), self.daemon.pid]
        self.daemon.expected_exit_code = None
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
        self.daemon.wait()

    def events(self) -> list[dict[str, Any]]:
        """What its journal says of the store: that it was lost, and that it is back."""
        return self._events({"store_lost", "store_back"})

    def exception_events(self) -> list[dict[str, Any]]:
        """What its journal says of limits that may have been passed."""
        return self._events({"limit_exception", "store_lost"})

    def _events(self, names: set[str]) -> list[dict[str, Any]]:
        status, text = self.daemon.admin("/api/events")
        assert status == 200
        return [event for event in json.loads(text)["events"] if event["event"] in names]

    def lines(self) -> list[str]:
        """The lines of its log that say so."""
        lines = self.daemon.stderr.splitlines()
        said = ("the store is away", "the store is back", "cannot be used")
        return [line for line in lines if any(words in line for words in said)]

    def is_up(self) -> bool:
        return self.daemon.metrics().total("ratelimitd_store_up") == 1

    def exceptions(self, reason: str) -> float:
        return self.daemon.metrics().total("ratelimitd_limit_exceptions_total", reason=reason)


class Fleet:
    """`nodes` daemons in front of one web server, which share `limits` through `store`."""

    def __init__(
        self,
        directory: Path,
        upstream: str,
        store: str,
        limits: Sequence[Rate],
        *,
        nodes: int = 2,
        workers: int = 1,
        deadline_ms: int = 100,
        options: str = "",
        hosts: Sequence[tuple[str, Sequence[str]]] = (),
    ) -> None:
        self.directory, self.upstream, self.store = directory, upstream, store
        self.limits, self.workers, self.deadline_ms = list(limits), workers, deadline_ms
        self.options = f"deadline: {deadline_ms}ms, entries: 40k, nodes: {nodes}{options}"
        places = list(hosts) or [(LOOPBACK, ())] * nodes
        self.nodes = [Node(self, index, host, prefix) for index, (host, prefix) in enumerate(places)]

    def wait_ready(self) -> None:
        """All nodes that run."""
        for node in self.nodes:
            if node.daemon.exit_code is None:
                node.daemon.wait_ready(60)

    def wait_store(self, *, up: bool, within_s: float = 10.0, nodes: Iterable[Node] | None = None) -> float:
        """How many seconds it took until every node says so."""
        began = time.monotonic()
        for node in self.nodes if nodes is None else nodes:
            what = f"node {node.index}: store_up is {int(up)}; {node.daemon.stderr}"
            left_s = max(0.05, within_s - (time.monotonic() - began))
            wait_until(lambda node=node: node.is_up() == up, what, left_s)  # type: ignore[misc]
        return time.monotonic() - began

    def load(
        self, paths: Sequence[str], *, rate: float, seconds: float, connections: int = 4, seed: int = 1
    ) -> FleetLoad:
        addresses = [node.address for node in self.nodes]
        return FleetLoad(
            self.directory, addresses, paths, rate=rate, seconds=seconds, connections=connections, seed=seed
        )

    def admitted(self, instant_us: Callable[[dict[str, Any]], int] = decided_us) -> dict[str, list[int]]:
        """The instants of all that every node has admitted, by path; waits until all lines are there."""
        found: dict[str, list[int]] = defaultdict(list)
        for node in self.nodes:
            for path, instants in self.admitted_by(node, instant_us).items():
                found[path] += instants
        return found

    def admitted_by(
        self, node: Node, instant_us: Callable[[dict[str, Any]], int] = decided_us
    ) -> dict[str, list[int]]:
        """Those of one node."""
        found: dict[str, list[int]] = defaultdict(list)
        if node.daemon.exit_code is None:
            self._wait_for_lines(node)
        for line in node.log.read_bytes().splitlines():
            entry = json.loads(line)
            if entry["outcome"] not in REFUSING and entry["decided"]:
                found[entry["target"].partition("?")[0]].append(instant_us(entry))
        return found

    def _wait_for_lines(self, node: Node) -> None:
        total = node.daemon.settled_metrics().total("ratelimitd_requests_total")

        def written() -> bool:
            return node.log.exists() and node.log.read_bytes().count(b"\n") >= total

        wait_until(written, f"{total:g} lines of node {node.index}")

    def finish(self) -> None:
        for node in self.nodes:
            node.daemon.finish()

    def stop(self) -> None:
        for node in self.nodes:
            node.daemon.stop()


@contextmanager
def fleet_of(
    directory: Path, upstream: str, store: str, limits: Sequence[Rate], **how: Any
) -> Iterator[Fleet]:
    """A fleet that is ready and shares its limits, judged at the end as every daemon is."""
    ready = how.pop("ready", True)
    fleet = Fleet(directory, upstream, store, limits, **how)
    try:
        fleet.wait_ready()
        if ready:
            fleet.wait_store(up=True)
        yield fleet
        fleet.finish()
    finally:
        fleet.stop()


def assert_within(admitted: dict[str, list[int]], rate: Rate, most: int, *, after_us: int = 0) -> None:
    """No window of a path of `rate` that lies wholly after `after_us` holds more than `most`."""
    judged = {path: instants for path, instants in admitted.items() if path.startswith(rate.prefix)}
    assert judged, "something was admitted"
    for path, instants in judged.items():
        worst = worst_window((instant for instant in instants if instant > after_us), rate.window_us)
        where = f"{path}: {worst.size} in the window to {worst.last_us}, {worst.last_us - after_us} µs on"
        assert worst.size <= most, f"{where}, more than {most}"


def assert_answers(answers: Sequence[Answer], *allowed: int) -> None:
    """Nobody got anything but these: no error, no broken connection, no answer that never came."""
    counts = statuses(answers)
    assert set(counts) <= set(allowed), counts


def assert_quick(answers: Sequence[Answer], deadline_ms: int) -> None:
    """Nobody waited for the store beyond the deadline, but for the waits of a machine that is full."""
    assert wait_quantile_us(answers, 0.99) <= deadline_ms * 1000 + 250_000
    assert wait_quantile_us(answers, 1.0) <= deadline_ms * 1000 + SLACK_S * _US


def during(answers: Iterable[Answer], since_us: int, until_us: int) -> list[Answer]:
    """The answers to requests that were sent in between."""
    return [answer for answer in answers if since_us <= answer.sent_us < until_us]
