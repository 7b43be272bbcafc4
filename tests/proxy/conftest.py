"""Fixtures for the data plane: a daemon before a web server that records every byte.

A module says its configuration in CONFIG; the daemon starts once for the module and is judged at its end.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon import Daemon
from tests.proxy.recording import Recording

PLAIN = """
workers: 1
upstreams: {web: {servers: [{url}], keepalive_idle: 1m}}
"""


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    with Recording() as server:
        yield server


@pytest.fixture(scope="module")
def daemon(
    recording: Recording, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("daemon")
    configuration = directory / "ratelimitd.yaml"
    configuration.write_text(getattr(request.module, "CONFIG", PLAIN).replace("{url}", recording.url))
    daemon = Daemon(directory, ["-c", str(configuration)])
    try:
        daemon.wait_ready()
        yield daemon
        daemon.finish()
    finally:
        daemon.stop()


@pytest.fixture
def upstream(recording: Recording) -> Recording:
    """The web server behind the daemon, with nothing left of the test before."""
    recording.clear()
    return recording
