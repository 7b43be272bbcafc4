"""One connection to a real server: order, faults, and what an operator reads when there is none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest
from redis.exceptions import ConnectionError as NotIn

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.link import Link
from ratelimitd.fleet.topology_values import Credentials, StoreServer
from tests.certificates import Authority
from tests.fleet.owners import Owner, packed, run_with
from tests.redis_servers import VERSIONS, Redis, tls_options
from tests.servers import LOOPBACK, free_port, wait_until
from tests.store_proxy import StoreProxy

NOTHING = Credentials()


class Caller(Owner):
    """Whoever makes calls."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[Any, Any]] = []
        self.links: list[Link] = []

    def close(self) -> None:
        for link in self.links:
            link.close()

    def answered(self, token: Any, reply: Any) -> None:
        self.answers.append((token, reply))
        self.tell()

    async def open(
        self,
        port: int = 0,
        credentials: Credentials = NOTHING,
        host: str = LOOPBACK,
        path: str = "",
        within_s: float = 5,
    ) -> Link:
        server = StoreServer(path=path) if path else StoreServer(host, port)
        loop = asyncio.get_running_loop()
        link = await Link.open(loop, server, credentials, self.answered, self.lost, within_s)
        self.links.append(link)
        return link


def run(test: Callable[[Caller], Awaitable[None]]) -> None:
    run_with(Caller, test)


def refused(
    port: int, credentials: Credentials = NOTHING, host: str = LOOPBACK, path: str = "", within_s: float = 5
) -> str:
    """What the operator reads when no link is opened."""
    found = ""

    async def test(owner: Caller) -> None:
        nonlocal found
        with pytest.raises(StoreFault) as fault:
            await owner.open(port, credentials, host, path, within_s)
        await asyncio.sleep(0)
        assert owner.faults == []  # told once, by the exception
        found = str(fault.value)

    run(test)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_answers_come_in_the_order_of_the_calls(version: str, tmp_path: Path) -> None:
    async def test(owner: Caller) -> None:
        link = await owner.open(server.port)
        for number in range(1000):
            link.call(packed("INCR", "count"), number)
        assert link.pending == 1000
        link.flush()
        await owner.until(lambda: len(owner.answers) == 1000)
        assert owner.answers == [(number, number + 1) for number in range(1000)]
        assert link.pending == 0

    with Redis(tmp_path, version) as server:
        run(test)


def test_nothing_is_written_before_the_flush(redis: Redis) -> None:
    async def test(owner: Caller) -> None:
        link, other = await owner.open(redis.port), await owner.open(redis.port)
        link.call(packed("SET", "flushed", "1"), "set")
        other.call(packed("EXISTS", "flushed"), "before")
        other.flush()
        await owner.until(lambda: len(owner.answers) == 1)
        link.flush()
        await owner.until(lambda: len(owner.answers) == 2)
        assert owner.answers == [("before", 0), ("set", b"OK")]

    run(test)


def test_an_error_is_an_answer_like_others(redis: Redis) -> None:
    async def test(owner: Caller) -> None:
        link = await owner.open(redis.port)
        link.call(packed("EVALSHA", "0" * 40, "0"), "script")
        link.call(packed("PING"), "ping")
        link.flush()
        await owner.until(lambda: len(owner.answers) == 2)
        (_, error), answer = owner.answers
        assert isinstance(error, hiredis.ReplyError)
        assert str(error).startswith("NOSCRIPT")
        assert answer == ("ping", b"PONG")
        assert owner.faults == []

    run(test)


def test_a_lost_connection_is_told_once_and_its_calls_to_nobody(tmp_path: Path) -> None:
    async def test(owner: Caller) -> None:
        with Redis(tmp_path) as server:
            link = await owner.open(server.port)
            link.call(packed("BLPOP", "nothing", "0"), "waits")
            link.flush()
            asking = asyncio.ensure_future(link.ask(asyncio.get_running_loop(), "PING"))
            await asyncio.sleep(0)
        await owner.until(lambda: bool(owner.faults))
        with pytest.raises(StoreFault, match="ended the connection"):
            await asking
        link.call(packed("PING"), "afterwards")
        link.flush()
        await asyncio.sleep(0.01)
        assert not link.is_open
        assert owner.answers == []
        assert len(owner.faults) == 1

    run(test)


def test_whoever_closes_is_told_nothing(redis: Redis) -> None:
    async def test(owner: Caller) -> None:
        link = await owner.open(redis.port)
        link.call(packed("PING"), "ping")
        link.flush()
        link.close()
        await asyncio.sleep(0.05)
        assert owner.answers == []
        assert owner.faults == []

    run(test)


def test_a_reply_that_is_cut_is_none(redis: Redis) -> None:
    async def test(owner: Caller) -> None:
        with StoreProxy(redis.port) as way:
            link = await owner.open(way.port)
            way.cut_after(3)
            link.call(packed("GET", "nothing"), "cut")  # $-1\r\n
            link.flush()
            await owner.until(lambda: bool(owner.faults))
            assert owner.answers == []
            assert "ended the connection" in str(owner.faults[0])

    run(test)


def test_a_call_is_never_repeated(redis: Redis) -> None:
    """The server did it, the answer was lost: who asks again decides that himself."""

    async def test(owner: Caller) -> None:
        with StoreProxy(redis.port) as way:
            link = await owner.open(way.port)
            way.swallow_replies()
            link.call(packed("INCR", "once"), "incr")
            link.flush()
            with redis.client() as client:
                async with asyncio.timeout(10):
                    while client.get("once") is None:
                        await asyncio.sleep(0.01)
                way.cut()
                await owner.until(lambda: bool(owner.faults))
                assert client.get("once") == b"1"

    run(test)


def test_what_is_no_reply_ends_the_link() -> None:
    async def test(owner: Caller) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"PING\r\n")
            writer.write(b"+PONG\r\n")
            await reader.readuntil(b"PING\r\n")
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await reader.read()
            writer.close()

        port = free_port()
        async with await asyncio.start_server(answer, LOOPBACK, port):
            link = await owner.open(port)
            link.call(packed("PING"), "ping")
            link.flush()
            await owner.until(lambda: bool(owner.faults))
            await asyncio.sleep(0.05)  # the connection ends after that, too
            assert [
                f"{LOOPBACK}:{port} answers what is no Redis" in str(fault) for fault in owner.faults
            ] == [True]
            assert owner.answers == []

    run(test)


def test_an_answer_that_nobody_asked_for_ends_the_link() -> None:
    async def test(owner: Caller) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"PING\r\n")
            writer.write(b"+PONG\r\n+PONG\r\n")
            await reader.read()
            writer.close()

        port = free_port()
        async with await asyncio.start_server(answer, LOOPBACK, port):
            with pytest.raises(StoreFault, match="without being asked"):
                await owner.open(port)
            assert owner.faults == []

    run(test)


def test_user_and_password(tmp_path: Path) -> None:
    options = ["--user", "limiter", "on", ">right", "~rl:*", "-@all", "+evalsha", "+eval", "+get", "+set"]
    options += ["+time", "+ping", "+auth", "+info", "--requirepass", "default password"]

    async def test(owner: Caller) -> None:
        for credentials in (
            Credentials(username="limiter", password="right"),
            Credentials(password="default password", database=3),
        ):
            link = await owner.open(server.port, credentials)
            assert await link.ask(asyncio.get_running_loop(), "SET", "rl:{secret}", "1") == b"OK"
        link = await owner.open(server.port, Credentials(username="limiter", password="right"))
        with pytest.raises(StoreFault, match="does not allow its user what is needed"):
            await link.ask(asyncio.get_running_loop(), "GET", "other")

    with Redis(tmp_path, options=options) as server:
        run(test)
        where = f"the store at {LOOPBACK}:{server.port}"
        wrong = Credentials(username="limiter", password="wrong")
        assert refused(server.port, wrong).startswith(
            f"{where} refuses the user or the password: correct store"
        )
        assert refused(server.port).startswith(f"{where} asks for a password: name a file")
        assert "wrong" not in repr(wrong)


def test_a_password_for_a_server_that_has_none(redis: Redis) -> None:
    assert "has no password, and one is configured" in refused(redis.port, Credentials(password="p"))


def test_a_database_that_is_not_there(redis: Redis) -> None:
    assert "has no database of that number" in refused(redis.port, Credentials(database=99))


def test_nobody_is_there(tmp_path: Path) -> None:
    port = free_port()
    assert refused(port) == f"the store at {LOOPBACK}:{port} cannot be reached: connection refused"
    path = str(tmp_path / "redis.socket")
    assert refused(0, path=path) == f"the store at unix:{path} cannot be reached: no such file or directory"
    assert "cannot be reached" in refused(port, host="nowhere.invalid")


def test_nobody_answers(redis: Redis) -> None:
    async def test(owner: Caller) -> None:
        with StoreProxy(redis.port) as way:
            way.black_hole()
            server = StoreServer(LOOPBACK, way.port)
            loop = asyncio.get_running_loop()
            with pytest.raises(StoreFault, match=r"did not answer within 0\.1 s"):
                await Link.open(loop, server, NOTHING, owner.answered, owner.lost, 0.1)
            assert owner.faults == []

    run(test)


def test_no_room_for_another_connection(tmp_path: Path) -> None:
    def is_in() -> bool:
        with contextlib.suppress(NotIn):  # whoever looked whether the port is open has not left yet
            return bool(client.ping())
        return False

    with Redis(tmp_path, options=["--maxclients", "1"]) as server, server.client() as client:
        wait_until(is_in, "the one client that there may be is in")
        assert "has no room for another connection" in refused(server.port)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_unix_socket(version: str, tmp_path: Path) -> None:
    path = tmp_path / "redis.socket"

    async def test(owner: Caller) -> None:
        link = await owner.open(path=str(path))
        link.call(packed("PING"), "ping")
        link.flush()
        await owner.until(lambda: bool(owner.answers))
        assert owner.answers == [("ping", b"PONG")]

    with Redis(tmp_path, version, ["--unixsocket", str(path)]):
        run(test)


def test_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    trusting = Credentials(tls=True, ca_file=str(authority.file))

    async def test(owner: Caller) -> None:
        link = await owner.open(server.port, trusting)
        for number in range(100):
            link.call(packed("ECHO", "x" * 10_000), number)
        link.flush()
        await owner.until(lambda: len(owner.answers) == 100)
        assert owner.answers == [(number, b"x" * 10_000) for number in range(100)]

    options = tls_options(authority.issue(LOOPBACK))
    with Redis(tmp_path / "redis", "redis-7", options) as server:
        run(test)
        where = f"the store at {LOOPBACK}:{server.port}"
        assert refused(server.port, Credentials(tls=True)).startswith(
            f"{where} shows a certificate that is not trusted (unable to get local issuer certificate)"
        )
        assert "not trusted (hostname mismatch" in refused(server.port, trusting, "localhost").lower()
        assert "if it speaks TLS there, write rediss://" in refused(server.port)
        missing = Credentials(tls=True, ca_file=str(tmp_path / "missing.pem"))
        assert "cannot be used: no such file" in refused(server.port, missing)


def test_tls_where_there_is_none(redis: Redis) -> None:
    assert "is this its tls-port?" in refused(redis.port, Credentials(tls=True), within_s=0.5)
