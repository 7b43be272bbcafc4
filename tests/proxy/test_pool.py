"""Connections to a web server that are kept: enough for the next crowd, and no more than that for long."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from tests.daemon import Daemon
from tests.proxy.recording import Connection, Recording, answer_ok
from tests.proxy.talking import Client, get
from tests.servers import wait_until

CROWD = 12


def test_a_crowd_finds_the_connections_of_the_last_one_and_few_are_kept(tmp_path: Path) -> None:
    with Recording() as recording:
        configuration = tmp_path / "ratelimitd.yaml"
        configuration.write_text(
            "workers: 1\n"
            f"upstreams: {{web: {{servers: ['{recording.url}'], keepalive: 2, keepalive_idle: 1m}}}}\n"
        )
        daemon = Daemon(tmp_path, ["-c", str(configuration)])
        try:
            daemon.wait_ready()
            gates = [threading.Event(), threading.Event()]
            arrived = [threading.Semaphore(0), threading.Semaphore(0)]

            def wait(connection: Connection, head: bytes) -> None:
                crowd = int(head.split(b"/", 2)[1][:1])
                arrived[crowd].release()
                assert gates[crowd].wait(10)
                answer_ok(connection, head)

            recording.script = wait
            with contextlib.ExitStack() as clients:
                asking = [clients.enter_context(Client(daemon.port)) for _ in range(CROWD)]
                for crowd, gate in enumerate(gates):
                    for client in asking:
                        client.send(get(f"/{crowd}"))
                    for _ in asking:
                        assert arrived[crowd].acquire(timeout=10)
                    gate.set()
                    assert [client.answer().status for client in asking] == [200] * CROWD
            assert len(recording.connections) == CROWD, "the second crowd opened connections"

            def kept() -> bool:
                return sum(not connection.ended.is_set() for connection in recording.connections) <= 2

            wait_until(kept, "all but two connections are closed")
        finally:
            daemon.stop()
