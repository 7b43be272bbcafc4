"""One limit over two nodes on every server and every way to it that is promised, and what is left there.

The user of the store has exactly the rights that the manual names, and none for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.certificates import Authority
from tests.e2e.fleet import Fleet, fleet_of
from tests.e2e.trial import PATHS, RATE, Trial
from tests.redis_servers import VERSIONS, Cluster, Redis, Sentinels
from tests.servers import LOOPBACK, Nginx, free_port

PASSWORD = "a secret: with spaces"
MANUAL = Path(__file__).parents[2] / "docs" / "fleet.md"
# What the manual has the operator type: for every server; with a database; in a cluster; for Sentinels.
SERVER, DATABASE, CLUSTER, SENTINEL = re.findall(
    r"^ACL SETUSER ratelimitd (.*?)(?: +#.*)?$", MANUAL.read_text(), re.MULTILINE
)
LONGEST_S = 60  # that a key of these limits may stay


def shares(fleet: Fleet) -> None:
    """Under load through both nodes the limit is used and kept, and nothing is said of the store."""
    trial = Trial(fleet, seconds=2.5)
    admitted = sum(answer.status == 200 for answer in trial.answers())
    assert admitted >= 0.9 * 2 * RATE.count * PATHS, "in each of two windows"
    trial.judge_calm()


@contextmanager
def two_nodes(directory: Path, nginx: Nginx, url: str, options: str = "") -> Iterator[Fleet]:
    # A deadline that a machine on which everything waits keeps too: this is about what is understood.
    with fleet_of(directory, nginx.url, url, [RATE], options=options, deadline_ms=1000) as fleet:
        yield fleet


def allow(client: Any, *rights: str) -> None:
    """Makes the user of the manual, with these of its lines."""
    words = [word for line in rights for word in line.split()]
    words = [word.replace("PASSWORD", PASSWORD) for word in words]
    client.execute_command("ACL", "SETUSER", "ratelimitd", *words)


def as_user(directory: Path) -> str:
    """The options that name it."""
    file = directory / "password"
    file.write_text(f"{PASSWORD}\n")
    return f", username: ratelimitd, password_file: {file}"


def assert_nothing_denied(client: Any) -> None:
    """Nothing was asked that the rights do not allow."""
    assert client.execute_command("ACL", "LOG") == []


def assert_only_ours(client: Any) -> None:
    """Every key carries the prefix and goes away by itself."""
    keys = client.keys("*")
    assert keys
    assert [key for key in keys if not key.startswith(b"rl:{")] == []
    left_s = {key: client.ttl(key) for key in keys}
    assert all(0 < seconds <= 8 * 86_400 for seconds in left_s.values()), left_s
    counted = {key: seconds for key, seconds in left_s.items() if b"shared" in key}
    assert counted, "the keys of the limit"
    assert all(seconds <= LONGEST_S for seconds in counted.values()), counted


OTHERS = [pytest.param(version, marks=pytest.mark.slow) for version in VERSIONS[:-1]]


@pytest.mark.parametrize("version", [*OTHERS, VERSIONS[-1]])
def test_a_user_with_the_rights_of_the_manual(tmp_path: Path, nginx: Nginx, version: str) -> None:
    with Redis(tmp_path / "redis", version) as redis, redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "off")
        allow(client, SERVER, DATABASE)
        with two_nodes(tmp_path, nginx, f"{redis.url}/2", as_user(tmp_path)) as fleet:
            shares(fleet)
            client.select(2)
            assert_only_ours(client)
            assert_nothing_denied(client)


@pytest.mark.slow
def test_over_a_unix_socket_with_a_secret_file(tmp_path: Path, nginx: Nginx) -> None:
    """With the secret in a file, nobody keeps one in Redis."""
    path, secret = tmp_path / "redis.sock", tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 4 + "\n")
    with Redis(tmp_path / "redis", options=("--unixsocket", str(path))) as redis:
        with two_nodes(tmp_path, nginx, f"redis+unix://{path}", f", secret_file: {secret}") as fleet:
            shares(fleet)
            with redis.client() as client:
                assert_only_ours(client)
                assert client.exists("rl:{secret}") == 0


@pytest.mark.slow
def test_over_tls(tmp_path: Path, nginx: Nginx) -> None:
    authority = Authority(tmp_path / "tls")
    pair = authority.issue(LOOPBACK)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(pair.certificate)]
    options += ["--tls-key-file", str(pair.key), "--tls-auth-clients", "no", "--tls-ca-cert-file"]
    with Redis(tmp_path / "redis", "redis-7", [*options, str(authority.file)]):
        url = f"rediss://{LOOPBACK}:{port}"
        with two_nodes(tmp_path, nginx, url, f", ca_file: {authority.file}") as fleet:
            shares(fleet)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_behind_sentinels(tmp_path: Path, nginx: Nginx, version: str) -> None:
    with Sentinels(tmp_path / "redis", version) as sentinels:
        for server in sentinels.servers:
            with server.client() as client:
                allow(client, SERVER)
        for sentinel in sentinels.sentinels:
            with sentinel.client() as client:
                allow(client, SENTINEL)
        url = sentinels.url.replace("://", f"://ratelimitd:{quote(PASSWORD)}@")
        with two_nodes(tmp_path, nginx, url, as_user(tmp_path)) as fleet:
            shares(fleet)
            with sentinels.master.client() as client:
                assert_only_ours(client)
                assert_nothing_denied(client)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_in_a_cluster(tmp_path: Path, nginx: Nginx, version: str) -> None:
    with Cluster(tmp_path / "redis", version) as cluster:
        for master in cluster.masters:
            with master.client() as client:
                allow(client, SERVER, CLUSTER)
        with two_nodes(tmp_path, nginx, cluster.url, as_user(tmp_path)) as fleet:
            shares(fleet)
            for master in cluster.masters:
                with master.client() as client:
                    assert_nothing_denied(client)
                    keys = client.keys("*")
                    assert all(key.startswith(b"rl:{") for key in keys)
                    assert all(client.pttl(key) > 0 for key in keys)
