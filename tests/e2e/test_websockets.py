"""WebSockets of other people's libraries, clients and servers, through the daemon: nothing differs from a
direct connection, neither in messages and closes nor, for frames that are none, in a single byte."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.daemon import Daemon
from tests.proxy.talking import Client, get
from tests.servers import LOOPBACK, Process, free_port

PEERS: Final = Path(__file__).parent.parent / "peers"
MIB: Final = 1 << 20
# Where Debian has its modules, whoever built node itself.
NODE: Final = os.environ | {"NODE_PATH": "/usr/share/nodejs"}
SERVERS: Final = {
    "websockets": [sys.executable, str(PEERS / "websockets_echo.py"), "{port}"],
    "uvicorn": [
        *(sys.executable, "-m", "uvicorn", "--app-dir", str(PEERS), "--port", "{port}", "--lifespan", "off"),
        *("--ws", "websockets-sansio", "--ws-max-size", str(32 * MIB), "asgi_echo:application"),
    ],
    "ws": ["env", f"NODE_PATH={NODE['NODE_PATH']}", "node", str(PEERS / "ws_echo.js"), "{port}"],
}
KEY: Final = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
MASK: Final = b"\x00\x00\x00\x00"  # leaves the payload as it is


class Served:
    """The servers by name, each behind a route of the daemon's."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.ports = {name: free_port() for name in SERVERS}
        upstreams, routes = "", ""
        for name, port in self.ports.items():
            command = [part.replace("{port}", str(port)) for part in SERVERS[name]]
            stack.enter_context(Process(name, command, directory)).wait_for_port(port)
            upstreams += f"  {name}: {{servers: ['http://{LOOPBACK}:{port}']}}\n"
            routes += f"- {{match: {{path: /{name}}}, upstream: {name}}}\n"
        file = directory / "ratelimitd.yaml"
        file.write_text(f"workers: 1\nupstreams:\n{upstreams}routes:\n{routes}")
        self.daemon = Daemon(directory, ["-c", str(file)])
        stack.callback(self.daemon.stop)
        self.daemon.wait_ready()

    def port(self, server: str, *, directly: bool) -> int:
        return self.ports[server] if directly else self.daemon.port


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with contextlib.ExitStack() as stack:
        served = Served(tmp_path_factory.mktemp("served"), stack)
        yield served
        served.daemon.finish()


# --- clients that keep to the protocol


def digest(kind: str, data: bytes) -> list[Any]:
    return [kind, len(data), hashlib.sha256(data).hexdigest()]


def websockets_told(url: str, *, compressed: bool) -> list[Any]:
    """One conversation of a client of `websockets`."""
    with connect(url, max_size=None, compression="deflate" if compressed else None, proxy=None) as client:
        assert client.response is not None
        told: list[Any] = [["extensions", client.response.headers.get("Sec-WebSocket-Extensions")]]
        assert client.ping("are you there").wait(10)
        texts: list[str | list[str]] = ["hello", "", "é" * 50_000, ["a", "b" * 70_000, "c"]]
        for message in [*texts, b"0123456789abcdef" * (MIB // 16 if compressed else MIB)]:
            client.send(message)
            got = client.recv()
            told.append(digest("text", got.encode()) if isinstance(got, str) else digest("binary", got))
        if compressed:
            client.send("close")
            with pytest.raises(ConnectionClosed):
                client.recv()
        else:
            client.close(4002, "enough")
        told.append(["close", client.close_code, client.close_reason])
    return told


def ws_told(url: str) -> list[Any]:
    """Both conversations of a client of `ws`."""
    client = subprocess.run(
        ["node", str(PEERS / "ws_client.js"), url], env=NODE, capture_output=True, timeout=30, check=False
    )
    assert client.returncode == 0, client.stderr.decode()
    told: list[Any] = json.loads(client.stdout)
    return told


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", ["websockets", "ws"])
def test_a_client_notices_nothing(served: Served, client: str, server: str) -> None:
    """Fragments, compression, 16 MiB in a message, pings, and closes by either side."""

    def told(*, directly: bool) -> list[Any]:
        url = f"ws://{LOOPBACK}:{served.port(server, directly=directly)}/{server}"
        if client == "ws":
            return ws_told(url)
        return [*websockets_told(url, compressed=True), *websockets_told(url, compressed=False)]

    through = told(directly=False)
    assert through == told(directly=True)
    assert [line for line in through if line[0] == "close"] == [
        ["close", 4001, "bye"],
        ["close", 4002, "enough"],
    ]
    assert [line[1] for line in through if line[0] == "binary"] == [MIB, 16 * MIB]


# --- clients that do not


def frame(first: int, payload: bytes = b"", *, masked: bool = True, length: bytes = b"") -> bytes:
    head = bytes([first, (0x80 if masked else 0) | (0x7F if length else len(payload))])
    return head + length + (MASK if masked else b"") + payload


INVALID: Final = {
    "unmasked": frame(0x81, b"hello", masked=False),
    "reserved-opcode": frame(0x83, b"hello"),
    "reserved-bit": frame(0xF1, b"hello"),
    "continues-nothing": frame(0x80, b"hello"),
    "fragmented-ping": frame(0x09, b"hello"),
    "long-ping": frame(0x89, length=(2**62).to_bytes(8)),
    "no-utf-8": frame(0x81, b"\xff\xfe"),
    "two-messages-at-once": frame(0x01, b"a") + frame(0x81, b"b"),
    "close-code": frame(0x88, (1005).to_bytes(2)),
    "one-byte-of-code": frame(0x88, b"\x03"),
    "negative-length": frame(0x82, length=b"\xff" * 8),
    "no-frame": b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "cut": frame(0x81, b"hello")[:-2],
}
UNFINISHED: Final = {INVALID[name] for name in ("long-ping", "negative-length", "cut")}


def answered(port: int, server: str, data: bytes) -> bytes:
    """All that a client gets that sends `data` behind its handshake, up to the end of the connection."""
    with Client(port) as client:
        answer = client.ask(get(f"/{server}", "Connection: Upgrade", "Upgrade: websocket", *KEY))
        assert answer.status == 101
        assert answer["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        client.send(frame(0x82, b"first"))
        assert client.take_until(b"first") == b"\x82\x05first"
        client.send(data)
        if data in UNFINISHED:
            client.end()
        got = b""
        with contextlib.suppress(ConnectionResetError):  # of a server that leaves something unread
            while part := client.sock.recv(65_536):
                got += part
        return got


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
def test_what_is_no_frame_is_answered_as_directly(served: Served, data: bytes, server: str) -> None:
    through, directly = (answered(served.port(server, directly=way), server, data) for way in (False, True))
    assert through == directly


@pytest.mark.parametrize("server", SERVERS)
def test_a_handshake_that_is_refused_is_refused_as_http(served: Served, server: str) -> None:
    """Without a key: the server's own answer, as it gives it directly, and then the next request."""
    request = get(f"/{server}", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    answers = []
    for directly in (False, True):
        with Client(served.port(server, directly=directly)) as client:
            answers.append(client.ask(request))
    through, direct = answers
    assert (through.status, through.body) == (direct.status, direct.body)
    assert 400 <= through.status < 500
