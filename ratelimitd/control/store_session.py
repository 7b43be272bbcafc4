"""The supervisor's own links to the servers of the store: questions, answers, and how long they took.

One link to each server; a key goes to the server that holds its slot. Nothing is sent twice, but a script
that a server does not know. What is broken stays broken: the owner closes the session and opens another one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import hiredis
from redis.crc import key_slot

from ratelimitd.errors import StoreFault
from ratelimitd.fleet.link import Link
from ratelimitd.fleet.refusals import meaning
from ratelimitd.fleet.script import packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ratelimitd.fleet.script import Script
    from ratelimitd.fleet.topology_values import Credentials, Topology

ANSWER_S: Final = 1.0
_PING: Final = packed((b"PING",))
_INFO: Final = tuple(packed((b"INFO", section)) for section in (b"server", b"replication"))

Identity = tuple[tuple[str, str], ...]  # run id and replication id of each server


class Refusal(StoreFault):
    """An error that a server answered; `kind` is its first word."""

    def __init__(self, reply: Exception) -> None:
        super().__init__(f"it {meaning(reply)}")
        self.kind: Final = str(reply).partition(" ")[0]


class Session:
    """`where` is what the links lead to. `lost` is called once, when one of them breaks."""

    def __init__(self, where: Topology, lost: Callable[[StoreFault], None]) -> None:
        self.where: Final = where
        self._lost = lost
        self._links: list[Link] = []
        self.is_open = True

    @classmethod
    async def open(
        cls, where: Topology, credentials: Credentials, within_s: float, lost: Callable[[StoreFault], None]
    ) -> Session:
        """Links to all servers; StoreFault when one cannot be reached."""
        session = cls(where, lost)
        loop = asyncio.get_running_loop()
        try:
            for server in where.servers:
                link = await Link.open(loop, server, credentials, _no_tokens, session._broken, within_s)
                session._links.append(link)
        except BaseException:
            session.close()
            raise
        return session

    def close(self) -> None:
        """Nobody is told of it; who waits for an answer hears that there is none."""
        self.is_open = False
        for link in self._links:
            link.close()

    async def ping(self, within_s: float) -> bool:
        """Whether every server answers in time; StoreFault for an error. A loop that was late itself reads
        once before it says no."""
        if not self.is_open:
            raise StoreFault("the connection was lost")
        answers = [self._ask(link, _PING) for link in self._links]
        _, missing = await asyncio.wait(answers, timeout=within_s)
        if missing:
            await asyncio.sleep(0)
        if not all(answer.done() for answer in answers):
            return False
        for answer in answers:
            _result(answer)
        return True

    async def identity(self) -> Identity:
        """Who the servers are. One that was demoted and promoted again keeps its run id."""
        return tuple([await self._identity(link) for link in self._links])

    async def run(self, script: Script, key: bytes, *arguments: bytes) -> object:
        """What a script of one key answers; StoreFault for an error or none in time."""
        link = self._link_of(key)
        try:
            return await self._answer(self._ask(link, script.call(key, *arguments)))
        except Refusal as refusal:
            if refusal.kind != "NOSCRIPT":
                raise
        return await self._answer(self._ask(link, script.whole(key, *arguments)))

    def ask(self, key: bytes, command: bytes) -> asyncio.Future[Any]:
        """The answer to a command for a key, when it comes."""
        return self._ask(self._link_of(key), command)

    def _link_of(self, key: bytes) -> Link:
        if not self.is_open:
            raise StoreFault("the connection was lost")
        if not self.where.slots:
            return self._links[0]
        slot = key_slot(key)
        for first, last, index in self.where.slots:
            if first <= slot <= last:
                return self._links[index]
        raise StoreFault(f"the cluster has nobody for slot {slot}: see `redis-cli cluster info`")

    async def _identity(self, link: Link) -> tuple[str, str]:
        fields: dict[str, str] = {}
        for answer in [self._ask(link, command) for command in _INFO]:
            text = await self._answer(answer)
            if isinstance(text, bytes):
                lines = text.decode("utf-8", "replace").splitlines()
                fields |= {name: value for name, _, value in (line.partition(":") for line in lines)}
        if fields.get("role", "master") != "master":
            raise StoreFault("READONLY: it is a replica now, and the master is elsewhere")
        return fields.get("run_id", ""), fields.get("master_replid", "")

    def _ask(self, link: Link, command: bytes) -> asyncio.Future[Any]:
        if not link.is_open:
            raise StoreFault("the connection was lost")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        link.call(command, answer)
        link.flush()
        return answer

    async def _answer(self, answer: asyncio.Future[Any]) -> object:
        _, missing = await asyncio.wait([answer], timeout=ANSWER_S)
        if missing:
            raise StoreFault(f"it did not answer within {ANSWER_S:g} s")
        return _result(answer)

    def _broken(self, fault: StoreFault) -> None:
        if self.is_open:
            self.is_open = False
            self._lost(fault)


def _seen(answer: asyncio.Future[Any]) -> None:
    """Who asked may be gone: that the link broke is no news then."""
    if not answer.cancelled():
        answer.exception()


def _result(answer: asyncio.Future[Any]) -> object:
    reply = answer.result()
    if isinstance(reply, hiredis.ReplyError):
        raise Refusal(reply)
    return reply


def _no_tokens(token: object, _: object) -> None:
    raise AssertionError(f"{token!r} is no future")
