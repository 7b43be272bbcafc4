"""The list of changes on real servers: one order for all, nothing twice, bounded, gone when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ratelimitd.fleet.changes import CHANGES, Change, ForeignList, Heard, Kind, arguments, read
from tests.redis_servers import VERSIONS, Redis
from tests.servers import wait_until

MINUTE_US = 60_000_000


@pytest.fixture(scope="module", params=VERSIONS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with Redis(tmp_path_factory.mktemp("redis"), request.param) as server, server.client() as client:
        yield client


@pytest.fixture(autouse=True)
def _empty(client: Any) -> None:
    client.flushall()


def change(number: int, kind: int = Kind.BAN, left_us: int = MINUTE_US) -> Change:
    return Change(b"id%06d" % number, kind, salt=number << 40, key=2**64 - 1 - number, left_us=left_us)


def ask(client: Any, incarnation: int = 0, known: int = 0, *added: Change, room: int = 4096) -> Heard:
    return read(client.eval(CHANGES.text, 1, "{changes}", *arguments(77, incarnation, known, added, room)))


def ids(heard: Heard) -> list[bytes]:
    return [one.id for one in heard.changes]


def test_what_is_new_is_told_in_one_order(client: Any) -> None:
    first = ask(client, 0, 0, change(1), change(2, Kind.UNBAN))
    assert (first.incarnation, first.newest) == (77, 2)
    for heard, sent in zip(first.changes, (change(1), change(2, Kind.UNBAN)), strict=True):
        assert (heard.id, heard.kind, heard.salt, heard.key) == (sent.id, sent.kind, sent.salt, sent.key)
        assert MINUTE_US - 2_000_000 < heard.left_us <= MINUTE_US
    assert ids(ask(client, 77, 2)) == []
    ask(client, 77, 2, change(3))
    assert ids(ask(client, 77, 2)) == [b"id000003"]
    assert ids(ask(client, 77, 1)) == [b"id000002", b"id000003"]
    assert ids(ask(client)) == ids(ask(client, 78, 3)) == [b"id000001", b"id000002", b"id000003"]
    assert len(ids(ask(client, 77, 9))) == 3, "a list that has lost its end is told whole"


def test_what_comes_twice_is_there_once(client: Any) -> None:
    assert ids(ask(client, 0, 0, change(1))) == [b"id000001"]
    again = ask(client, 77, 1, change(1), change(2))
    assert (again.newest, ids(again)) == (2, [b"id000002"])


def test_who_does_not_know_the_list_adds_nothing(client: Any) -> None:
    ask(client, 0, 0, change(1))
    for incarnation, known in ((0, 0), (78, 1), (77, 2)):
        assert ids(ask(client, incarnation, known, change(2))) == [b"id000001"]
    assert ids(ask(client, 77, 1, change(2))) == [b"id000002"]
    client.delete("{changes}")
    assert ask(client, 77, 2, change(3)) == Heard(0, 0, ())


def test_no_list_is_none(client: Any) -> None:
    assert ask(client) == ask(client, 77, 5) == Heard(0, 0, ())
    assert client.keys() == [], "who asks makes nothing"


def test_it_expires_with_the_last_change(client: Any) -> None:
    ask(client, 0, 0, change(1, left_us=90_000_000), change(2, left_us=1_000_000))
    assert 85_000 < client.pttl("{changes}") <= 90_000


def test_bans_of_rules_leave_room_for_operators(client: Any) -> None:
    rules = [change(number, Kind.BAN_BY_RULE) for number in range(8)]
    assert ids(ask(client, 0, 0, *rules, room=8)) == [one.id for one in rules[:6]]
    operators = [change(number) for number in range(20, 24)]
    assert ids(ask(client, 77, 6, *operators, room=8)) == [one.id for one in operators[:2]]


def test_what_is_over_makes_room(client: Any) -> None:
    ask(client, 0, 0, *[change(number, left_us=1000) for number in range(8)], change(8), room=9)

    def has_room() -> bool:
        return ids(ask(client, 77, 9, change(9), room=9)) == [b"id000009"]

    wait_until(has_room, "those of a millisecond are over")
    assert ids(ask(client)) == [b"id000008", b"id000009"]


@pytest.mark.parametrize("reply", [None, [1, 2, 3], [1, 2, 3, b"x" * 40], [1, 2, 3, "x"]])
def test_what_is_no_answer_of_the_script(reply: Any) -> None:
    with pytest.raises(ForeignList):
        read(reply)


def test_another_programs_key_is_left_alone(client: Any) -> None:
    client.set("{changes}", "a")
    with pytest.raises(Exception, match="data string too short"):
        ask(client, 0, 0, change(1))
    assert client.get("{changes}") == b"a"
