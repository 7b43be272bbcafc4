"""A reload puts all of a configuration in force, or refuses it whole and says why."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.control.daemon import Daemon, config, daemon

GOOD = """
upstreams:
  web:
    servers: [http://127.0.0.1:9]
limits:
  - {name: per-client, per: client, rate: 100/10s}
"""

SLOWER = r"reloaded: limit per-client: rate 100/10s -> 5/min; window changed: counts start fresh$"


def sample(server: Daemon, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(server.get("/metrics")[2])
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def results(server: Daemon) -> tuple[float, float, float]:
    """(taken, refused, whether the last was taken)"""
    return (
        sample(server, "ratelimitd_config_reloads_total", result="success"),
        sample(server, "ratelimitd_config_reloads_total", result="refused"),
        sample(server, "ratelimitd_config_last_reload_successful"),
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ratelimitd.yaml"
    path.write_text(GOOD)
    return path


def test_a_changed_file_is_taken(file: Path) -> None:
    with daemon(config(), path=str(file)) as server:
        server.until_admin()
        workers = server.workers()
        for _ in range(5):
            server.ask()
        file.write_text(GOOD.replace("100/10s", "5/1m").replace("per-client", "each"))
        server.signal(signal.SIGHUP)
        server.until("reloaded: limit per-client removed; limit each added: 5/min per client$")
        assert results(server) == (1, 0, 1)
        assert sample(server, "ratelimitd_requests_total") == 5
        assert sample(server, "ratelimitd_limit_decisions_total", limit="each") == 0
        assert "each" in server.get("/metrics")[2]
        assert server.workers() == workers
        server.signal(signal.SIGHUP)
        server.until("reloaded: nothing changed$")


def test_a_replaced_worker_starts_with_the_configuration_in_force(file: Path) -> None:
    with daemon(config(workers=1), path=str(file)) as server:
        server.until_admin()
        file.write_text(GOOD.replace("100/10s", "5/1m"))
        server.signal(signal.SIGHUP)
        server.until(SLOWER)
        os.kill(server.workers()[0], signal.SIGKILL)
        server.until("accepts connections")
        server.signal(signal.SIGHUP)
        server.until("reloaded: nothing changed$")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: [", r"ratelimitd\.yaml:\d+:\d+: "),
        (GOOD.replace("rate:", "rates:"), r"ratelimitd\.yaml:6:\d+: .*rates"),
        (
            GOOD + "store_options: {entries: 2M}\n",
            r"a change of store_options needs a restart \(store_options.entries 1000000 -> 2000000\)",
        ),
        (GOOD.replace("127.0.0.1:9", "no-such-host.invalid:9"), "'no-such-host.invalid' .* does not resolve"),
        (GOOD + "headers: {request_id: x-refused}\n", "the stub refuses this one"),
    ],
)
def test_what_is_wrong_is_refused_and_the_old_stays(file: Path, text: str, message: str) -> None:
    with daemon(config(), path=str(file)) as server:
        server.until_admin()
        file.write_text(text)
        server.signal(signal.SIGHUP)
        server.until(f"reload refused, the old configuration stays: .*{message}")
        assert results(server) == (0, 1, 0)
        file.write_text(GOOD.replace("100/10s", "5/1m"))
        server.signal(signal.SIGHUP)
        server.until(SLOWER)
        assert results(server) == (1, 1, 1)


def test_a_worker_that_dies_during_a_reload_does_not_hold_it_up(file: Path) -> None:
    with daemon(config(), path=str(file)) as server:
        server.until_admin()
        victim = server.workers()[0]
        os.kill(victim, signal.SIGSTOP)  # cannot answer
        file.write_text(GOOD.replace("100/10s", "5/1m"))
        server.signal(signal.SIGHUP)
        os.kill(victim, signal.SIGKILL)
        server.until(SLOWER)
        assert results(server) == (1, 0, 1)


def test_a_failure_that_comes_late_refuses_nothing(file: Path) -> None:
    """Of two workers that could not prepare a configuration the second may say so during the next reload."""
    with daemon(config(), path=str(file)) as server:
        server.until_admin()
        workers = server.workers()
        file.write_text(GOOD + "headers: {request_id: x-refused}\n")
        server.signal(signal.SIGHUP)
        server.until("reload refused, .*: the stub refuses this one")
        file.write_text(GOOD + "headers: {request_id: x-late}\n")
        server.signal(signal.SIGHUP)
        server.until("reloaded: headers.request_id x-request-id -> x-late$")
        assert results(server) == (1, 1, 1)
        assert server.workers() == workers


def test_workers_that_cannot_put_it_in_force_are_replaced(file: Path) -> None:
    with daemon(config(), path=str(file)) as server:
        server.until_admin()
        workers = server.workers()
        file.write_text(GOOD + "headers: {request_id: x-unswappable}\n")
        server.signal(signal.SIGHUP)
        server.until("reloaded: headers.request_id x-request-id -> x-unswappable$")
        said = [
            line for line in server.lines if "cannot use the configuration in force: the stub cannot" in line
        ]
        assert len(said) == len(workers)
        until_s = time.monotonic() + 15
        while sample(server, "ratelimitd_workers") < len(workers):
            assert time.monotonic() < until_s
        replacements = server.workers()
        assert not set(replacements) & set(workers)
        file.write_text(GOOD)
        server.signal(signal.SIGHUP)
        server.until("reloaded: headers.request_id x-unswappable -> x-request-id$")
        assert results(server) == (2, 0, 1)
        assert server.workers() == replacements


def test_many_signals_never_overlap(file: Path) -> None:
    with daemon(config(), path=str(file)) as server:
        server.until_admin()
        for _ in range(50):
            server.signal(signal.SIGHUP)
        server.until("reloaded: nothing changed$")
        file.write_text(GOOD.replace("100/10s", "5/1m"))
        server.signal(signal.SIGHUP)
        server.until(SLOWER)


def test_without_a_file_there_is_nothing_to_reload() -> None:
    with daemon(config()) as server:
        server.until_admin()
        server.signal(signal.SIGHUP)
        server.until("reload refused, .*: this daemon was started without a file")
        assert server.get("/readyz")[0] == 200
