"""Certificates are renewed under load: who is connected stays, who comes gets the new one, and one that
cannot be used changes nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.conftest import StartDaemon
from tests.e2e.steady import read_answer
from tests.proxy.talking import get
from tests.proxy.tls_talking import TlsClient, trusting
from tests.servers import LOOPBACK, Nginx, free_port, wait_until

NAME = "a.example"
CONNECTIONS = 16


class Site:
    """A daemon of two workers that speaks TLS, and its files."""

    def __init__(self, start_daemon: StartDaemon, nginx: Nginx, directory: Path) -> None:
        self.authority = Authority(directory)
        self.pair = self.authority.issue(NAME)
        self.port = free_port()
        self.file = directory / "ratelimitd.yaml"
        self.url = nginx.url
        self.write(self.pair.yaml)
        self.daemon = start_daemon("-c", str(self.file), workers=2, port=self.port, listens_by_file=True)

    def write(self, tls: str) -> None:
        listener = f"{{bind: '{LOOPBACK}:{self.port}'" + (f", tls: {tls}}}" if tls else "}")
        self.file.write_text(
            f"upstreams: {{web: {{servers: ['{self.url}']}}}}\nlisten:\n- {listener}\n"
            "bounds: {connections_per_client: 10000}\n"
        )

    def serial(self) -> str:
        """The serial number of the certificate that a new connection gets."""
        with socket.create_connection((LOOPBACK, self.port)) as plain:
            with trusting(self.authority.file).wrap_socket(plain, server_hostname=NAME) as tls:
                certificate = tls.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])

    def reload(self) -> str:
        """What the log says of it."""
        before = self.daemon.stderr.count("reload")
        self.daemon.send(signal.SIGHUP)

        def said() -> str | None:
            lines = [line for line in self.daemon.stderr.splitlines() if "reload" in line]
            return lines[-1] if self.daemon.stderr.count("reload") > before else None

        return wait_until(said, "a line of the reload")


@pytest.fixture
def site(start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path) -> Site:
    return Site(start_daemon, nginx, tmp_path / "site")


def test_renewed_under_load(site: Site) -> None:
    """Only the files change, and the configuration names them as before."""

    async def ask(stop: asyncio.Event, counts: list[int], *, keep: bool) -> None:
        context = trusting(site.authority.file)
        while not stop.is_set():
            reader, writer = await asyncio.open_connection(
                LOOPBACK, site.port, ssl=context, server_hostname=NAME
            )
            while not stop.is_set():
                writer.write(get())
                assert await asyncio.wait_for(read_answer(reader), 10) == 200
                counts.append(1)
                await asyncio.sleep(0.005)
                if not keep:
                    break
            writer.close()
            await writer.wait_closed()

    async def load() -> tuple[int, set[str]]:
        stop = asyncio.Event()
        counts: list[int] = []
        tasks = [asyncio.create_task(ask(stop, counts, keep=n % 4 > 0)) for n in range(CONNECTIONS)]
        serials = {await asyncio.to_thread(site.serial)}
        for _ in range(3):
            site.pair.replace_by(site.authority.issue(NAME, file="renewed"))
            said = await asyncio.to_thread(site.reload)
            assert "certificate" in said
            assert "fingerprint" in said
            serials.update({await asyncio.to_thread(site.serial) for _ in range(4)})
        stop.set()
        await asyncio.gather(*tasks)
        return len(counts), serials

    answered, serials = asyncio.run(load())
    assert answered > CONNECTIONS
    assert len(serials) == 4, "each new connection has the newest certificate"


def test_who_is_connected_stays_when_tls_is_switched_off_and_on(site: Site) -> None:
    context = trusting(site.authority.file)
    with TlsClient(site.port, context, NAME) as client:
        assert client.ask(get()).status == 200
        site.write("")
        assert "reloaded" in site.reload()
        assert client.ask(get()).status == 200
        with pytest.raises(ssl.SSLError):
            TlsClient(site.port, context, NAME)
        site.write(site.pair.yaml)
        assert "reloaded" in site.reload()
        assert client.ask(get()).status == 200
    assert site.serial()


def test_what_cannot_be_used_is_refused_with_its_place(site: Site) -> None:
    before = site.serial()
    other = site.authority.issue("other.example")
    site.pair.key.write_bytes(other.key.read_bytes())
    said = site.reload()
    assert "reload refused, the old configuration stays" in said
    assert f"{site.file}:3:" in said
    assert "key: " in said
    assert "is not the key of" in said
    assert site.serial() == before
    check = [sys.executable, "-m", "ratelimitd", "check", str(site.file)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{site.file}:3:") or done.stdout.startswith(f"{site.file}:3:")
