"""A web server that fails at any point of an exchange: the client gets a right answer, an error of ours or a
cut connection, never another client's bytes; and nothing is left over.

All cases run at once, before the same few connections, beside clients whose requests are answered rightly. A
case is (framing of the answer, point, fault) -> what its client sees; `faulty` has the points and the faults.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.daemon import Daemon
from tests.proxy.faulty import Faulty, Order
from tests.proxy.recording import Recording
from tests.proxy.talking import Client, Ended, get
from tests.servers import LOOPBACK, free_port, wait_until

pytestmark = pytest.mark.xdist_group("faults")

Result = tuple[str, bytes]

RIGHT, ODD, CUT = "right", "odd", "cut"  # ODD: whole, but not what a sound server would have said
BUFFERED: Final = 1_000
STREAMED: Final = 300_000
LARGE: Final = 8 << 20  # more than the system and the daemon take while nobody reads
WITNESSES: Final = 4
PAUSE_S: Final = 0.01
AT_ONCE: Final = 16  # beside those that wait for a deadline

CONFIG: Final = """
workers: 1
timeouts: {connect: 700ms, response: 2s, body: 2s}
bounds: {connections_per_client: 1000}
shedding: {cpu_pressure: {signal: none}}
log: {access: none}
upstreams:
"""
UPSTREAM: Final = (
    "  {name}: {{servers: ['{url}'], keepalive: 2, keepalive_idle: 300ms, concurrency: unlimited}}\n"
)


@dataclasses.dataclass(frozen=True)
class Case:
    order: Order
    expected: str
    body: int = -1  # of the request; -1: GET
    version: str = "1.1"

    @property
    def name(self) -> str:
        order = self.order
        form = {-1: "get", BUFFERED: "buffered", STREAMED: "streamed", LARGE: "large"}[self.body]
        return f"{order.lane}-{form}-{self.version}-{order.framing}-{order.point}-{order.fault}"

    @property
    def waits(self) -> bool:
        """Whether it ends by a deadline of the daemon."""
        silent = self.order.fault == "stall" and self.expected != RIGHT
        endless = self.order.framing == "close" and self.order.fault in ("garbage", "second")
        return silent or (endless and self.expected == CUT)

    @property
    def request(self) -> bytes:
        if self.body < 0:
            return get(self.order.target, version=self.version)
        return get(self.order.target, f"Content-Length: {self.body}", method="POST") + bytes(self.body)


HEAD_POINTS: Final = ("request", "status-line", "head", "head-end")
BODY_POINTS: Final = ("body-start", "body")
CHUNK_POINTS: Final = (
    *("body-start", "chunk-size", "chunk-line", "chunk-data", "chunk-end", "between-chunks", "last-chunk"),
    *("trailers", "trailers-end"),
)
SILENT: Final = ("reset", "finish", "stall")
NO_ANSWER: Final = {"reset": "502", "finish": "502", "stall": "504", "garbage": "502", "second": "502"}
NOT_READ: Final = NO_ANSWER | {"second": ODD}
NONSENSE: Final = ("interims", "switching", "framed-twice", "two-lengths")


def expectations() -> Iterator[tuple[str, str, str, str]]:
    """(framing, point, fault, what the client sees) of answers to a GET."""
    for framing in ("length", "chunked", "close"):
        for point, (fault, expected) in itertools.product(HEAD_POINTS, NO_ANSWER.items()):
            if (point, fault) != ("request", "second"):
                yield framing, point, fault, expected
    for point in BODY_POINTS:
        for fault in (*SILENT, "reset-at-once", "finish-at-once"):
            yield "length", point, fault, CUT
        for fault in ("garbage", "second"):
            yield "length", point, fault, ODD  # who knows only a length takes what comes for the body
            yield "close", point, fault, CUT  # and then it does not end
        yield "close", point, "reset", CUT
        yield "close", point, "stall", CUT
        yield "close", point, "finish", ODD
    for point, fault in itertools.product(CHUNK_POINTS, (*SILENT, "garbage", "second", "finish-at-once")):
        yield "chunked", point, fault, CUT
    for framing, fault in itertools.product(("length", "chunked"), ("garbage", "second")):
        yield framing, "end", fault + "-at-once", RIGHT
    yield "close", "end", "finish", RIGHT
    for fault in NONSENSE:
        yield "length", "request", fault, "502"
    yield "length", "request", "bad-chunk", "502"


def orders() -> Iterator[tuple[str, str, str, str, str, int, str]]:
    """(framing, point, fault, lane, what the client sees, body of the request, its version)."""
    for framing, point, fault, expected in expectations():
        yield framing, point, fault, "web", expected, -1, "1.1"
    for point, fault in itertools.product(CHUNK_POINTS, SILENT):
        yield "chunked", point, fault, "web", CUT, -1, "1.0"
    yield "chunked", "end", "second-at-once", "web", RIGHT, -1, "1.0"
    points = ("request-head-end", "request-body", "request")
    for body, point in itertools.product((BUFFERED, STREAMED), points):
        for fault, expected in (NOT_READ | dict.fromkeys(NONSENSE, "502")).items():
            yield "length", point, fault, "web", expected, body, "1.1"
    for point in points[:2]:
        yield "length", point, "stall", "web", "504", LARGE, "1.1"
    for fault, expected in NOT_READ.items():
        if fault != "second":  # which may come before anything was asked, or right after
            yield "length", "accept", fault, f"accept-{fault}", expected, -1, "1.1"
        for body in (-1, BUFFERED, STREAMED):
            yield "length", "request-start", fault, "partial", expected, body, "1.1"
    for lane, body in itertools.product(("refused", "deaf"), (-1, BUFFERED, STREAMED)):
        yield "length", "connect", "none", lane, "502", body, "1.1"


def build_cases() -> list[Case]:
    return [
        Case(Order(number, framing, point, fault, lane), expected, body, version)
        for number, (framing, point, fault, lane, expected, body, version) in enumerate(orders(), 1)
    ]


CASES: Final = build_cases()


# --- what a client sees


def content_of_chunks(client: Client) -> bytes:
    content = b""
    while size := int(client.take_until(b"\r\n").split(b";")[0], 16):
        content += client.take(size)
        assert client.take(2) == b"\r\n"
    while client.take_until(b"\r\n") != b"\r\n":
        pass
    return content


def see(client: Client, order: Order, faulty: Faulty) -> Result:
    """What came of a request, and the body as far as it came."""
    try:
        answer = client.head()
        while answer.status < 200:
            answer = client.head()
        if answer.status != 200:
            return str(answer.status), client.take(int(answer["content-length"]))
        faulty.sees_head[order.number].set()
        if answer.values("content-length"):
            body = client.take(int(answer["content-length"]))
        elif answer.values("transfer-encoding"):
            body = content_of_chunks(client)
        else:
            body = client.rest()
    except (Ended, ConnectionResetError):
        return CUT, client.left
    return (RIGHT if body == order.body else ODD), body


def ask(port: int, case: Case, faulty: Faulty) -> Result:
    with Client(port) as client:
        sender = threading.Thread(target=send, args=(client, case.request))
        sender.start()
        try:
            return see(client, case.order, faulty)
        finally:
            faulty.is_over[case.order.number].set()
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)
            sender.join()


def send(client: Client, request: bytes) -> None:
    with contextlib.suppress(OSError):
        client.send(request)


def foreign(order: Order, body: bytes) -> set[int]:
    """The numbers of others in a body. Those who are greeted before they have said theirs are number 0."""
    return {int(number) for number in re.findall(rb"<(\d+)>", body)} - {order.number, 0}


def witness(port: int, faulty: Faulty, first: int, done: threading.Event, results: list[Result]) -> None:
    """Asks for right answers, one after the other, as long as others have trouble."""
    framings = itertools.cycle(("length", "chunked", "length"))
    with Client(port) as client:
        for number in itertools.count(first):
            order = Order(number, next(framings), "end", "none")
            client.send(Case(order, RIGHT, BUFFERED if number % 2 else -1).request)
            results.append(see(client, order, faulty))
            if results[-1][0] == CUT or done.wait(PAUSE_S):
                return


# --- all of it


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port where connections are begun and never made: the queue of its socket is full."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server((LOOPBACK, 0), backlog=1))
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextlib.contextmanager
def running(directory: Path, faulty: Faulty) -> Iterator[Daemon]:
    """The daemon before a server for each lane."""
    with contextlib.ExitStack() as stack:
        lanes = {"refused": f"http://{LOOPBACK}:{free_port()}"}
        lanes["deaf"] = f"http://{LOOPBACK}:{stack.enter_context(deaf_port())}"
        for lane in ("web", "partial", *(f"accept-{fault}" for fault in NOT_READ)):
            server = stack.enter_context(Recording(receive_buffer=32_768))
            server.script = faulty.serve
            if lane == "partial":
                server.greet = faulty.greet_partial
            elif lane != "web":
                server.greet = faulty.greet(lane.removeprefix("accept-"))
            lanes[lane] = server.url
        upstreams = "".join(UPSTREAM.format(name=lane, url=url) for lane, url in lanes.items())
        routes = "".join(f"  - {{match: {{path: /{lane}/*}}, upstream: {lane}}}\n" for lane in lanes)
        configuration = directory / "ratelimitd.yaml"
        configuration.write_text(f"{CONFIG}{upstreams}routes:\n{routes}")
        daemon = Daemon(directory, ["-c", str(configuration)])
        try:
            daemon.wait_ready()
            yield daemon
            daemon.finish()
        finally:
            daemon.stop()


@dataclasses.dataclass(frozen=True)
class Seen:
    victims: dict[str, Result]  # by the name of the case
    witnesses: list[Result]
    outcomes: Counter[str]


def descriptors(daemon: Daemon) -> int:
    (worker,) = daemon.workers()
    return len(os.listdir(f"/proc/{worker}/fd"))


def run_all(daemon: Daemon, faulty: Faulty) -> tuple[dict[str, Result], list[Result]]:
    victims: dict[str, Result] = {}
    others: list[Result] = []
    done = threading.Event()

    def run(case: Case) -> None:
        victims[case.name] = ask(daemon.port, case, faulty)

    waiting = [case for case in CASES if case.waits]
    with (
        concurrent.futures.ThreadPoolExecutor(WITNESSES) as witnesses,
        concurrent.futures.ThreadPoolExecutor(len(waiting) + AT_ONCE) as pool,
    ):
        watching = [
            witnesses.submit(witness, daemon.port, faulty, 100_000 * (n + 1), done, others)
            for n in range(WITNESSES)
        ]
        suffering = [pool.submit(run, case) for case in sorted(CASES, key=lambda case: not case.waits)]
        concurrent.futures.wait(suffering)
        done.set()
        for future in (*suffering, *watching):
            future.result()
    return victims, others


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    faulty = Faulty()
    with running(tmp_path_factory.mktemp("faults"), faulty) as daemon:
        before = descriptors(daemon)
        victims, witnesses = run_all(daemon, faulty)
        wait_until(lambda: descriptors(daemon) <= before, "every descriptor is given back")
        metrics = daemon.settled_metrics()
        outcomes = Counter(
            {
                dict(labels)["outcome"]: int(value)
                for (name, labels), value in metrics.samples.items()
                if name == "ratelimitd_requests_total" and value
            }
        )
        yield Seen(victims, witnesses, outcomes)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_is_seen_for_what_it_is(seen: Seen, case: Case) -> None:
    result, body = seen.victims[case.name]
    assert result == case.expected, body[:300]
    assert foreign(case.order, body) == set()


def test_nobody_else_sees_anything_of_it(seen: Seen) -> None:
    assert len(seen.witnesses) > WITNESSES
    assert [(result, body) for result, body in seen.witnesses if result != RIGHT] == []


def test_every_request_is_counted_once_as_what_became_of_it(seen: Seen) -> None:
    counted = Counter({"forwarded": len(seen.witnesses)})
    for case in CASES:
        if case.expected in (RIGHT, ODD):
            counted["forwarded"] += 1
        else:
            counted["timeout" if case.waits else "upstream_error"] += 1
    assert seen.outcomes == counted
