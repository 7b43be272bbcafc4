"""Clients that send too much, too much at once, or too many small things: what they get, and what it costs.

Costs are the CPU time and the memory of the worker's own process, so that a busy machine changes nothing:
twice the bytes may cost about twice the time, and what is held does not grow with what was sent.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import OK, Connection, Recording
from tests.proxy.talking import Client, get
from tests.servers import wait_until

CONFIG = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 1m}}
bounds: {head: 32KiB, headers: 100, target: 8KiB, buffer: 64KiB}
limits: [{name: none, per: "header:X-Api-Key", missing: deny, rate: 1/1d, match: {path: /refused}}]
log: {access: none}
shedding: {cpu_pressure: {signal: none}}
"""

KIB, MIB = 1024, 1024 * 1024
REFUSED = get("/refused")
HEAD = get()[:-2]


def cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def own_kib(pid: int) -> int:
    """What it has written: Pss changes with whoever else has the same libraries loaded."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Anonymous:"))


@pytest.fixture
def worker(daemon: Daemon) -> int:
    (pid,) = daemon.workers()
    return pid


def cost_s(worker: int, work: Callable[[], object]) -> float:
    """The CPU time that `work` costs the worker."""
    before = cpu_s(worker)
    work()
    return cpu_s(worker) - before


def assert_linear(worker: int, work: Callable[[int], object], size: int) -> None:
    """Eight times the work is not much more than eight times the cost; a second square would be 64 times."""
    work(size)  # what is loaded or allocated once
    small = cost_s(worker, lambda: work(size))
    large = cost_s(worker, lambda: work(8 * size))
    assert large < 24 * small + 0.05, (small, large)


# --- heads


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(1_000)) + b"\r\n", 431),
        (HEAD + b"X: y\r\n" * 5_000 + b"\r\n", 431),
        (HEAD + b"X: " + b"y" * MIB + b"\r\n\r\n", 431),
        (HEAD + b"X" * MIB, 431),
        (b"GET /" + b"x" * MIB + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"G" * MIB, 414),
        (b"\r\n" * 1_000 + b"G" * MIB, 414),
    ],
    ids=["fields", "equal-fields", "field", "name", "target", "method", "empty-lines"],
)
def test_a_bomb_of_a_head_is_refused_and_closed(
    daemon: Daemon, upstream: Recording, data: bytes, status: int
) -> None:
    with Client(daemon.port) as client:
        with contextlib.suppress(OSError):
            client.send(data)
        answer = client.answer()
        assert (answer.status, answer.closes) == (status, True)
    assert upstream.received == b""


@pytest.mark.usefixtures("upstream")
def test_a_head_byte_by_byte_costs_no_more_than_its_bytes(daemon: Daemon, worker: int) -> None:
    def work(size: int) -> None:
        with Client(daemon.port) as client:
            client.send_bytes(HEAD + b"X: " + b"y" * size + b"\r\n\r\n")
            assert client.answer().status == 200

    assert_linear(worker, work, 3_000)


@pytest.mark.usefixtures("upstream")
def test_empty_lines_cost_no_more_than_their_bytes(daemon: Daemon, worker: int) -> None:
    def work(size: int) -> None:
        with Client(daemon.port) as client:
            client.send(b"\r\n" * size + get())
            assert client.answer().status == 200

    before_kib = own_kib(worker)
    assert_linear(worker, work, MIB // 2)
    assert own_kib(worker) - before_kib < 1_024


# --- bodies


def taking(connection: Connection, _head: bytes) -> None:
    """Reads chunks without a look at them."""
    while not connection.received.endswith(b"\r\n0\r\n\r\n"):
        del connection.received[:-7]
        connection._receive()
    connection.send(OK)
    connection.close()


def send_chunks(client: Client, count: int) -> None:
    client.send(get("/", "Transfer-Encoding: chunked", method="POST"))
    part = b"1\r\nx\r\n" * 10_000
    for _ in range(count // 10_000):
        client.send(part)


def test_tiny_chunks_cost_no_more_than_their_bytes(daemon: Daemon, upstream: Recording, worker: int) -> None:
    upstream.script = taking

    def work(count: int) -> None:
        with Client(daemon.port) as client:
            send_chunks(client, count)
            client.send(b"0\r\n\r\n")
            assert client.answer().status == 200

    before_kib = own_kib(worker)
    assert_linear(worker, work, 120_000)
    assert own_kib(worker) - before_kib < 2_048


def test_tiny_chunks_wait_for_a_server_that_takes_none(
    daemon: Daemon, upstream: Recording, worker: int
) -> None:
    waits = threading.Event()

    def take_none(_connection: Connection, _head: bytes) -> None:
        waits.wait(10)

    upstream.script = take_none
    before_kib = own_kib(worker)
    with Client(daemon.port) as client:
        client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            send_chunks(client, 10_000_000)
        assert own_kib(worker) - before_kib < 2_048
        waits.set()


# --- requests


def echoing(connection: Connection, head: bytes) -> None:
    target = head.split(b" ", 2)[1]
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))


def test_ten_thousand_in_one_write_are_answered_in_order(
    daemon: Daemon, upstream: Recording, worker: int
) -> None:
    """Every fourth goes on to the web server."""
    upstream.script = echoing
    before_kib = own_kib(worker)
    data = b"".join(REFUSED if i % 4 else get(f"/{i}") for i in range(10_000))
    with Client(daemon.port) as client:
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        for i in range(10_000):
            answer = client.answer()
            assert answer.status == (403 if i % 4 else 200)
            if i % 4 == 0:
                assert answer.body == f"/{i}".encode()
        sender.join()
        assert client.ask(get("/after")).body == b"/after"
    assert own_kib(worker) - before_kib < 4_096


@pytest.mark.usefixtures("upstream")
def test_all_are_answered_although_the_client_has_closed_its_side(daemon: Daemon) -> None:
    with Client(daemon.port) as client:
        client.send(REFUSED * 1_000)
        client.end()
        for _ in range(1_000):
            assert client.answer().status == 403
        assert client.is_closed()


def test_who_asks_ahead_and_reads_slowly_holds_little(daemon: Daemon, worker: int) -> None:
    """However much was sent and answered over the connection: its buffer is never empty."""
    asked = 60_000
    with Client(daemon.port, receive_buffer=16 * KIB) as client:
        sender = threading.Thread(target=client.send, args=(REFUSED * asked,))
        sender.start()
        before_kib = own_kib(worker)
        held_kib = 0
        answered = 0
        last = b""
        while answered < asked:
            data = last + client.sock.recv(256 * KIB)
            answered += data.count(b"HTTP/1.1 403")
            last = data[-11:]
            if answered % 50 == 0:
                held_kib = max(held_kib, own_kib(worker) - before_kib)
        sender.join()
    assert held_kib < 1_536


def test_nothing_is_left(daemon: Daemon) -> None:
    wait_until(lambda: not daemon.metrics().total("ratelimitd_connections"), "no connection is left")
