"""Uploads by curl of which nobody knows the length, through the daemon to gunicorn and to nginx."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.proxy.talking import Client, get
from tests.servers import Gunicorn, Nginx


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    with Gunicorn(tmp_path_factory.mktemp("gunicorn")) as server:
        yield server


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


def before(url: str, directory: Path) -> Iterator[Daemon]:
    daemon = Daemon(directory, ["--upstream", url])
    try:
        daemon.wait_ready()
        yield daemon
        daemon.finish()
    finally:
        daemon.stop()


@pytest.fixture
def before_gunicorn(gunicorn: Gunicorn, tmp_path: Path) -> Iterator[Daemon]:
    yield from before(gunicorn.url, tmp_path)


@pytest.fixture
def before_nginx(nginx: Nginx, tmp_path: Path) -> Iterator[Daemon]:
    yield from before(nginx.url, tmp_path)


def curl(url: str, body: bytes, *options: str) -> bytes:
    command = ["curl", "-sS", "--fail", "--max-time", "20", *options, "-T", "-", url]
    return subprocess.run(command, input=body, capture_output=True, check=True).stdout


@pytest.mark.parametrize("expectation", ["", "100-continue"], ids=["plain", "expect"])
def test_gunicorn_gets_what_curl_sends(before_gunicorn: Daemon, expectation: str) -> None:
    for size in (0, 1, 65_536, 5_000_000):
        body = random.Random(size).randbytes(size)
        told = json.loads(curl(before_gunicorn.url, body, "-H", f"Expect: {expectation}"))
        assert (told["method"], told["size"]) == ("PUT", size)
        assert told["sha256"] == hashlib.sha256(body).hexdigest()
        assert told["headers"].get("expect", "") == expectation


def test_nginx_reads_one_request_for_each(before_nginx: Daemon, nginx: Nginx) -> None:
    before = nginx.requests()
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (n, b"x" * n) for n in range(1, 40)) + b"0\r\nX-Sum: 1\r\n\r\n"
    request = get("/", "Transfer-Encoding: chunked", method="POST") + chunks
    with Client(before_nginx.port) as client:
        client.send((request + get()) * 20)
        for _ in range(40):
            assert client.answer().status == 200
    curl(before_nginx.url, bytes(300_000), "-H", "Expect: 100-continue")
    assert nginx.requests() - before == 41
