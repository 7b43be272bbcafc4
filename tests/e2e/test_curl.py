"""What curl can do, with nginx, gunicorn, node and uvicorn behind the daemon: nothing differs from asking
them directly, neither its exit code nor status, body and the fields that describe it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.certificates import Authority
from tests.daemon import Daemon
from tests.servers import LOOPBACK, Gunicorn, Nginx, Process, free_port

pytestmark = pytest.mark.xdist_group("curl")

PEERS: Final = Path(__file__).parent.parent / "peers"
SERVERS: Final = ("nginx", "gunicorn", "node", "uvicorn")
DESCRIBING: Final = (
    "accept-ranges",
    "content-length",
    "content-range",
    "content-type",
    "etag",
    "last-modified",
)
UPLOADED: Final = bytes(n % 253 for n in range(300_000))
BEGUN: Final = 1_000  # bytes of a download that an earlier one has left behind

# What is asked for, and how. FILE is one to upload, from which "-" reads too.
DOWN: Final = {
    "plain": ["/content"],
    "http-1.0": ["--http1.0", "/content"],
    "http-1.0-without-length": ["--http1.0", "/chunked"],
    "without-length": ["/chunked"],
    "head": ["--head", "/content"],
    "head-of-chunks": ["--head", "/chunked"],
    "range": ["-r", "100-199", "/content"],
    "last-bytes": ["-r", "99000-", "/content"],
    "range-that-is-none": ["-r", "200000-", "/content"],
    "resumed": ["-C", "-", "/content"],
    "compressed": ["--compressed", "/content"],
    "newer": ["-z", "Sun, 13 Sep 2020 12:26:40 GMT", "/content"],
    "http-2-offered": ["--http2", "/content"],
    "twice": ["/content", "/chunked"],
    "not-kept": ["-H", "Connection: close", "/content"],
    "odd-target": ["--path-as-is", "/content/../content?a=%2F&b=%zz"],
}
UP: Final = {
    "post": ["--data-binary", "@FILE", "/upload"],
    "put": ["-T", "FILE", "/upload"],
    "put-empty": ["-X", "PUT", "-d", "", "/upload"],
    "put-and-expect": ["-T", "FILE", "-H", "Expect: 100-continue", "/upload"],
    "put-unexpecting": ["-T", "FILE", "-H", "Expect:", "/upload"],
    "chunked": ["-T", "-", "/upload"],
    "chunked-and-expect": ["-T", "-", "-H", "Expect: 100-continue", "/upload"],
    "chunked-post": ["--data-binary", "@FILE", "-H", "Transfer-Encoding: chunked", "/upload"],
    "http-1.0": ["--http1.0", "--data-binary", "@FILE", "/upload"],
    "http-2-offered": ["--http2", "-T", "FILE", "/upload"],
    "delete": ["-X", "DELETE", "/upload"],
    "twice": ["-T", "FILE", "/upload", "-T", "FILE", "/upload"],
}


@dataclasses.dataclass(frozen=True)
class Got:
    """What curl told: comparable, since all that may differ is left out."""

    exit_code: int
    statuses: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    body: bytes


class Curl:
    """Runs curl for addresses that are all ours, whatever they are called."""

    def __init__(self, directory: Path, authority: Path) -> None:
        self._directory = directory
        self._common = ["--silent", "--cacert", str(authority), "--max-time", "10"]
        self._file = directory / "upload"
        self._file.write_bytes(UPLOADED)

    def __call__(self, scheme: str, server: str, arguments: Sequence[str], port: int) -> Got:
        address = f"{server}.example:{port}"
        heads, output = self._directory / "heads", self._directory / "output"
        output.write_bytes(b"")
        command = ["curl", *self._common, "--resolve", f"{address}:{LOOPBACK}", "-D", str(heads)]
        for argument in arguments:
            if argument.startswith("/"):
                command += ["-o", str(output), f"{scheme}://{address}{argument}"]
            else:
                command.append(argument.replace("FILE", str(self._file)))
        if "-C" in arguments:
            output.write_bytes(b"x" * BEGUN)
        with self._file.open("rb") as stdin:
            code = subprocess.run(command, stdin=stdin, check=False).returncode
        body = b"" if "--head" in arguments else output.read_bytes()
        return Got(code, *_read_heads(heads), body)


def _read_heads(heads: Path) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Statuses and describing fields of all answers; a 100 comes only where it was waited for."""
    statuses, fields = [], []
    for line in heads.read_text().splitlines():
        name, _, value = line.partition(": ")
        if line.startswith("HTTP/1."):
            statuses.append(line.split(" ", 2)[1])
        elif name.lower() in DESCRIBING:
            fields.append((name.lower(), value))
    return tuple(status for status in statuses if status != "100"), tuple(sorted(fields))


@dataclasses.dataclass(frozen=True)
class Served:
    curl: Curl
    daemon: Daemon
    tls_port: int
    ports: dict[str, int]


@pytest.fixture(scope="module")
def served(nginx: Nginx, gunicorn: Gunicorn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("curl")
    ports = {"nginx": nginx.port, "gunicorn": gunicorn.port, "node": free_port(), "uvicorn": free_port()}
    commands = {
        "node": ["node", str(PEERS / "http_server.js"), str(ports["node"])],
        "uvicorn": [
            *(sys.executable, "-m", "uvicorn", "--app-dir", str(PEERS), "--port", str(ports["uvicorn"])),
            *("--lifespan", "off", "asgi_http:application"),
        ],
    }
    authority = Authority(directory / "tls")
    pair = authority.issue(*(f"{name}.example" for name in SERVERS))
    port, tls_port = free_port(), free_port()
    upstreams = "".join(f"  {name}: {{servers: ['http://{LOOPBACK}:{ports[name]}']}}\n" for name in SERVERS)
    routes = "".join(f"  - {{match: {{host: {name}.example}}, upstream: {name}}}\n" for name in SERVERS)
    file = directory / "ratelimitd.yaml"
    file.write_text(
        f"workers: 1\nlisten:\n  - bind: {LOOPBACK}:{port}\n"
        f"  - {{bind: '{LOOPBACK}:{tls_port}', tls: {pair.yaml}}}\n"
        f"upstreams:\n{upstreams}routes:\n{routes}"
    )
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            stack.enter_context(Process(name, command, directory)).wait_for_port(ports[name])
        daemon = Daemon(directory, ["-c", str(file)], port=port, listens_by_file=True)
        stack.callback(daemon.stop)
        daemon.wait_ready()
        yield Served(Curl(directory, authority.file), daemon, tls_port, ports)
        daemon.finish()


def compare(served: Served, server: str, arguments: Sequence[str]) -> Got:
    """What curl gets through the daemon, which is the same in plain and over TLS, and as directly."""
    plainly = [argument for argument in arguments if argument != "--http2"]  # which uvicorn takes badly
    directly = served.curl("http", server, plainly, served.ports[server])
    for scheme, port in (("http", served.daemon.port), ("https", served.tls_port)):
        through = served.curl(scheme, server, arguments, port)
        if server == "gunicorn":
            assert without_fields_told(through) == without_fields_told(directly), scheme
        else:
            assert through == directly, scheme
    return directly


def without_fields_told(got: Got) -> Got:
    """Without what tests/echo.py says of the fields that it got, to which the daemon adds, and its length."""
    body = got.body
    with contextlib.suppress(ValueError):
        body = json.dumps(json.loads(body) | {"headers": {}}).encode()
    fields = tuple(field for field in got.fields if field[0] != "content-length")
    return dataclasses.replace(got, fields=fields, body=body)


@pytest.mark.parametrize("arguments", DOWN.values(), ids=DOWN.keys())
@pytest.mark.parametrize("server", SERVERS)
def test_downloads(served: Served, server: str, arguments: list[str]) -> None:
    got = compare(served, server, arguments)
    assert got.statuses


@pytest.mark.parametrize("arguments", UP.values(), ids=UP.keys())
@pytest.mark.parametrize("server", SERVERS)
def test_uploads(served: Served, server: str, arguments: list[str]) -> None:
    got = compare(served, server, arguments)
    assert set(got.statuses) == {"200"}
    if "-T" in arguments and server != "nginx":  # which says nothing of what it got
        assert json.loads(got.body)["sha256"] == hashlib.sha256(UPLOADED).hexdigest()


def test_what_curl_can_do_is_done(served: Served) -> None:
    """The comparison is one of good answers: nginx and node know ranges, and 304 is nginx's."""
    for server in ("nginx", "node"):
        content = served.curl("http", server, DOWN["plain"], served.daemon.port).body
        assert len(content) == 100_000
        assert served.curl("https", server, DOWN["range"], served.tls_port).body == content[100:200]
        resumed = served.curl("http", server, DOWN["resumed"], served.daemon.port)
        assert resumed.body == b"x" * BEGUN + content[BEGUN:]
    assert served.curl("http", "nginx", DOWN["newer"], served.daemon.port).statuses == ("304",)
