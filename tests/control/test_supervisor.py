"""The daemon's life, seen from outside: replacement, drain, restart, and what must never happen."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ratelimitd.config.model import Admin, Listener, Server, Timeouts, Upstream
from ratelimitd.control.tasks import cancelled
from tests.control.daemon import ROOT, STUB, Daemon, config, daemon, ended, listener

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def requests_total(server: Daemon) -> float:
    families = text_string_to_metric_families(server.get("/metrics")[2])
    (family,) = (family for family in families if family.name == "ratelimitd_requests")
    return sum(sample.value for sample in family.samples)


def sample(server: Daemon, name: str) -> float:
    families = text_string_to_metric_families(server.get("/metrics")[2])
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def until(condition: Callable[[], bool], within_s: float) -> float:
    """How long it took, for what nothing announces."""
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() < start_s + within_s, f"not within {within_s} s"
        time.sleep(0.005)
    return time.monotonic() - start_s


def refused(server: Daemon) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def in_time_wait(port: int) -> bool:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "06" for line in lines)


@pytest.mark.timing
def test_a_dead_worker_is_replaced_within_a_second_and_no_count_is_lost() -> None:
    with daemon(config()) as server:
        server.until_admin()
        for killed in range(2):
            before = {server.ask() for _ in range(20)}
            assert len(before) == 2
            total = requests_total(server)
            victim = server.workers()[0]
            os.kill(victim, signal.SIGKILL)
            start_s = time.monotonic()
            while sample(server, "ratelimitd_worker_restarts_total") == killed or (
                sample(server, "ratelimitd_workers") < 2
            ):
                assert requests_total(server) == total
            assert time.monotonic() - start_s < 1
            assert requests_total(server) == total
            assert victim not in server.workers()
            server.until(rf"pid {victim}\) was killed by SIGKILL; a new one is started now")
            server.until(r"worker \d \(pid \d+\) accepts connections")
            after = {server.ask() for _ in range(20)}
            assert victim not in after
            assert len(after) == 2


@pytest.mark.timing
def test_a_stopped_worker_is_killed_and_replaced_within_four_seconds() -> None:
    with daemon(config()) as server:
        server.until_admin()
        for _ in range(10):
            server.ask()
        total = requests_total(server)
        victim = server.workers()[1]
        os.kill(victim, signal.SIGSTOP)
        start_s = time.monotonic()
        server.until(rf"pid {victim}\) gave no sign of life for 3\.\d s: killed")
        server.until(r"accepts connections")
        assert 2.5 < time.monotonic() - start_s < 4
        assert requests_total(server) == total
        assert sample(server, "ratelimitd_workers") == 2


def test_connections_wait_for_the_replacement() -> None:
    """The socket of a worker outlives it: what the kernel put there is answered by the next."""
    with daemon(config(workers=1)) as server:
        server.until_serving()
        os.kill(server.workers()[0], signal.SIGSTOP)
        with contextlib.ExitStack() as stack:
            waiting = [stack.enter_context(server.connect()) for _ in range(5)]
            os.kill(server.workers()[0], signal.SIGKILL)
            server.until("accepts connections")
            assert {int(connection.recv(100)) for connection in waiting} == set(server.workers())


def test_gauges_of_a_dead_worker_go() -> None:
    with daemon(config(workers=1)) as server:
        server.until_admin()
        with server.connect() as connection:
            connection.recv(100)
            assert sample(server, "ratelimitd_connections") == 1
            os.kill(server.workers()[0], signal.SIGKILL)
            server.until("accepts connections")
            assert sample(server, "ratelimitd_connections") == 0
            assert requests_total(server) == 1


def test_a_worker_that_keeps_dying_is_started_more_slowly() -> None:
    with daemon(config(workers=1)) as server:
        server.until_serving()
        for when in ("now", "now", "in 100 ms", "in 200 ms"):
            os.kill(server.workers()[0], signal.SIGKILL)
            server.until(f"a new one is started {when}$")
            server.until("accepts connections")


def test_a_supervisor_that_stood_still_blames_nobody() -> None:
    """After SIGSTOP (or a suspended machine) heartbeats look old that are not."""
    with daemon(config()) as server:
        server.until_admin()
        workers = server.workers()
        for pid in [server.process.pid, *workers]:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(3.5)
        for pid in [server.process.pid, *workers]:
            os.kill(pid, signal.SIGCONT)
        assert server.get("/readyz")[0] == 200
        time.sleep(0.5)
        assert server.workers() == workers


def test_drain_finishes_what_is_under_way() -> None:
    with daemon(config()) as server:
        server.until_admin()
        with server.connect() as connection:
            connection.recv(100)
            server.signal(signal.SIGTERM)
            server.until("draining")
            assert server.get("/readyz") == (503, "text/plain; charset=utf-8", "not ready: draining\n")
            assert server.get("/healthz")[0] == 200
            until(lambda: refused(server), 5)
            assert server.process.poll() is None
        assert server.wait() == 0
        assert server.lines[-1].endswith("stopped")
        assert any(line.endswith(" drained") for line in server.lines)


def test_a_drain_ends_when_its_time_is_over() -> None:
    with daemon(config(timeouts=Timeouts(drain_ms=300))) as server:
        server.until_serving()
        with server.connect() as connection:
            connection.recv(100)
            server.signal(signal.SIGTERM)
            server.until("0.3 s are over: what is still under way is cut off")
            assert server.wait(5) == 0
            assert connection.recv(100) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number: signal.Signals) -> None:
    with daemon(config()) as server:
        server.until_serving()
        with server.connect() as connection:
            connection.recv(100)
            server.signal(number)
            server.until("draining")
            start_s = time.monotonic()
            server.signal(number)
            server.until("a second signal came")
            assert server.wait(5) == 0
            assert time.monotonic() - start_s < 2


def test_a_drain_does_not_wait_for_a_stopped_worker_longer_than_its_heartbeat() -> None:
    with daemon(config()) as server:
        server.until_serving()
        os.kill(server.workers()[0], signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        assert server.wait(6) == 0


def test_signals_to_the_group_reach_only_the_supervisor() -> None:
    with daemon(config()) as server:
        server.until_serving()
        with server.connect() as connection:
            connection.recv(100)
            for pid in server.workers():
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                    os.kill(pid, number)
            workers = server.workers()
            assert {server.ask() for _ in range(20)} == set(workers)


def test_what_is_not_supported_is_said_and_changes_nothing() -> None:
    with daemon(config(workers=1)) as server:
        server.until_serving()
        server.signal(signal.SIGUSR2)
        server.until("SIGUSR2 received: .* not supported by this version; nothing was changed")
        assert server.ask() in server.workers()


def test_workers_end_with_their_supervisor() -> None:
    with daemon(config()) as server:
        server.until_serving()
        workers = server.workers()
        with server.connect() as connection:
            serving = int(connection.recv(100))
            server.process.kill()
            server.process.wait()
            until(lambda: all(ended(pid) for pid in workers if pid != serving), 5)
            assert not ended(serving)  # it finishes what it has
        until(lambda: ended(serving), 5)


def test_a_restart_on_the_same_port_works_at_once() -> None:
    """With connections of the old daemon in TIME_WAIT on its port."""
    with daemon(config()) as first:
        first.until_serving()
        port = first.port
        connections = [first.connect() for _ in range(5)]
        for connection in connections:
            connection.recv(100)
        for pid in first.workers():
            os.kill(pid, signal.SIGKILL)  # the server's side closes first: TIME_WAIT is on its port
        for connection in connections:
            with contextlib.suppress(ConnectionResetError):
                connection.recv(100)
            connection.close()
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
    assert in_time_wait(port)
    with daemon(config(listen=(listener(port),))) as second:
        second.until_serving()
        assert second.port == port
        assert second.ask() in second.workers()


def refusal(changed: object, environ: dict[str, str] | None = None, run_by: Sequence[str] = ()) -> str:
    """The one error of a daemon that cannot start."""
    assert isinstance(changed, dict)
    with daemon(config(**changed), environ=environ, run_by=run_by) as server:
        assert server.wait() == 1
        errors = [line for line in server.lines if " ERROR " in line]
        assert len(errors) == 1
        return errors[0]


def test_a_second_daemon_on_the_port_is_refused() -> None:
    with daemon(config()) as first:
        first.until_serving()
        error = refusal({"listen": (listener(first.port),)})
        assert (
            f"cannot listen on 127.0.0.1:{first.port}: the port is in use, another program listens there"
            in error
        )
        assert "ss -ltnp" in error
        workers = set(first.workers())
        assert {first.ask() for _ in range(20)} == workers


def test_a_privileged_port_is_refused_with_the_remedy() -> None:
    # Without the one right, but as the same user: another one may not be allowed to read this program.
    drop = ("setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service")
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 80:
        assert "CAP_NET_BIND_SERVICE" in refusal({"listen": (listener(80),)}, run_by=drop)


def test_an_address_of_another_machine_is_refused() -> None:
    assert "no address of this machine" in refusal({"listen": (listener(8080, "192.0.2.1"),)})


def test_an_upstream_that_does_not_resolve_is_refused() -> None:
    server = Server("http://no-such-host.invalid:80", host="no-such-host.invalid", port=80)
    error = refusal({"upstreams": (Upstream("shop", (server,)),)})
    assert "upstream shop: the name 'no-such-host.invalid' of http://no-such-host.invalid:80" in error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--fail", "no such table"), "cannot start: no such table"),
        (("--die",), "ended with status 7 before it served"),
    ],
)
def test_a_worker_that_cannot_start_stops_the_start(option: tuple[str, ...], message: str) -> None:
    with daemon(config(), (*STUB, *option)) as server:
        assert server.wait() == 1
        assert message in "\n".join(server.lines)
        assert not any("serving on" in line for line in server.lines)


def test_a_signal_during_the_start_ends_it() -> None:
    with daemon(config(), (*STUB, "--mute")) as server:
        until(lambda: len(server.workers()) == 2, 5)
        server.signal(signal.SIGTERM)
        assert server.wait(5) == 0
        assert not any("serving on" in line for line in server.lines)


def test_a_program_that_does_not_exist_is_said() -> None:
    with daemon(config(), ("/no/such/program",)) as server:
        assert server.wait() == 1
        assert "cannot be started: No such file or directory" in server.lines[-1]


def test_unix_listener(tmp_path: Path) -> None:
    path = tmp_path / "public.sock"
    listen = (Listener(bind=f"unix:{path}", unix_path=str(path)),)
    with daemon(config(listen=listen)) as server:
        server.until_serving()
        assert server.address == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            assert int(connection.recv(100)) in server.workers()
        assert "another program listens there" in refusal({"listen": listen})
        server.process.kill()
        server.process.wait()
    assert path.exists()
    with daemon(config(listen=listen)) as server:  # the path that a killed daemon left is taken over
        server.until_serving()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not path.exists()


def test_a_default_admin_address_in_use_is_done_without() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with daemon(config(admin=Admin(port=port))) as server:
            server.until(rf"WARNING no admin server: cannot listen on 127.0.0.1:{port}: the port is in use")
            server.until_serving()
        assert f"127.0.0.1:{port}" in refusal({"admin": Admin(port=port, required=True)})


SILENT_NAME_SERVER = """
import socket, sys, time
answers = [{answers}]
resolve = socket.getaddrinfo
def getaddrinfo(name, *question, **more):
    if name == "localhost":
        if not answers:
            print("the name server is silent", file=sys.stderr, flush=True)
            time.sleep(60)
        answers.pop()
    return resolve(name, *question, **more)
socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.parametrize("answers", ["", "1"], ids=["at the start", "later"])
def test_a_name_server_that_is_silent_holds_up_no_end(tmp_path: Path, answers: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(SILENT_NAME_SERVER.format(answers=answers))
    named = Upstream("web", (Server("http://localhost:9", host="localhost", port=9),))
    with daemon(config(upstreams=(named,)), environ={"PYTHONPATH": f"{tmp_path}:{ROOT}"}) as server:
        server.until("the name server is silent")
        server.signal(signal.SIGTERM)
        assert server.wait(within_s=8) == 0
        assert "stopped" in server.lines[-1]


def test_work_that_forgets_its_cancellation_ends_all_the_same() -> None:
    """As `asyncio.wait_for` does when what it waits for comes in that very moment."""

    async def run() -> int:
        forgotten = 0

        async def forgets() -> None:
            nonlocal forgotten
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if forgotten == 2:
                        raise
                    forgotten += 1

        tasks = [asyncio.ensure_future(forgets()), asyncio.ensure_future(asyncio.Event().wait())]
        await asyncio.sleep(0)
        await cancelled(tasks)
        assert all(task.cancelled() for task in tasks)
        return forgotten

    assert asyncio.run(run()) == 2
