"""Fixtures for all tests: the daemon and the web servers behind it, as real processes.

The web servers are shared by the tests of one process; a daemon belongs to one test and is judged when the
test ends (see tests/daemon.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import pytest

from tests.daemon import Daemon
from tests.servers import Gunicorn, Nginx

# The gate repeats itself exactly, so that a red run is the fault of the change; the search looks for more.
hypothesis.settings.register_profile("gate", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2_000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture(scope="session")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    with Gunicorn(tmp_path_factory.mktemp("gunicorn")) as server:
        yield server


class StartDaemon(Protocol):
    """`start_daemon("--upstream", URL, workers=2)`: a daemon that is ready, judged when the test ends."""

    def __call__(
        self,
        *arguments: str,
        workers: int = 1,
        port: int | None = None,
        listens_by_file: bool = False,
        ready: bool = True,
    ) -> Daemon: ...


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    daemons: list[Daemon] = []

    def start(*arguments: str, ready: bool = True, **options: Any) -> Daemon:
        directory = tmp_path / f"daemon-{len(daemons)}"
        daemon = Daemon(directory, arguments, **options)
        daemons.append(daemon)
        if ready:
            daemon.wait_ready()
        return daemon

    yield start
    try:
        for daemon in daemons:
            daemon.finish()
    finally:
        for daemon in daemons:
            daemon.stop()
