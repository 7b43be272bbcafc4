"""Which server is asked: exact shares in turn, the least load, one for a client, and none that is down."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.config import model
from ratelimitd.proxy.balancing import Balancer, Server, hash_client
from ratelimitd.proxy.deadlines import Wheel
from ratelimitd.segment import layout
from ratelimitd.segment.memory import boottime_us
from ratelimitd.segment.servers import ServerWords

TICK_MS = 50
SECOND = 1000 // TICK_MS


@dataclasses.dataclass
class Pool:
    """A balancer, and the words of its servers."""

    balancer: Balancer
    words: dict[str, ServerWords]
    wheel: Wheel

    def pick(self, client: int = 0) -> str | None:
        server = self.balancer.pick(client)
        return None if server is None else server.url

    def picks(self, count: int) -> list[str | None]:
        return [self.pick() for _ in range(count)]

    def server(self, url: str) -> Server:
        return next(server for server in self.balancer.servers if server.url == url)

    def fails(self, url: str, times: int = 1) -> None:
        for _ in range(times):
            self.balancer.begin(self.server(url))
            self.balancer.end(self.server(url), good=False)

    def answers(self, url: str) -> None:
        self.balancer.begin(self.server(url))
        self.balancer.end(self.server(url))

    def pass_ejection(self, url: str) -> None:
        """The time for which it was ejected is over."""
        self.words[url].words[2] = boottime_us() - 1


def pool(*servers: tuple[str, int], backups: tuple[str, ...] = (), **settings: Any) -> Pool:
    """`servers` are names with their weights."""
    addresses = [model.Server(url=name, host="h", port=1, weight=weight) for name, weight in servers]
    addresses += [model.Server(url=name, host="h", port=1, backup=True) for name in backups]
    upstream = model.Upstream("web", tuple(addresses), **settings)
    wheel = Wheel(TICK_MS)
    memory: Any = bytearray(layout.SERVER_SIZE * len(addresses))
    words = {
        address.url: ServerWords(memory, index * layout.SERVER_SIZE)
        for index, address in enumerate(addresses)
    }
    made = [
        Server(address, words[address.url].words, memoryview(bytearray(64)).cast("q"), 0, 5, None)
        for address in addresses
    ]
    return Pool(Balancer(upstream, made, wheel), words, wheel)


# --- shares


def test_in_turn_the_shares_are_exact_and_mixed() -> None:
    servers = pool(("a", 5), ("b", 1), ("c", 1), balance="round_robin")
    assert servers.picks(7) == ["a", "a", "b", "a", "c", "a", "a"]  # as nginx has it
    assert collections.Counter(servers.picks(700)) == {"a": 500, "b": 100, "c": 100}


@given(st.lists(st.integers(1, 256), min_size=1, max_size=12))
def test_in_turn_every_round_gives_each_server_its_weight(weights: list[int]) -> None:
    servers = pool(*((str(n), weight) for n, weight in enumerate(weights)), balance="round_robin")
    for _ in range(2):
        picked = collections.Counter(servers.picks(sum(weights)))
        assert picked == {str(n): weight for n, weight in enumerate(weights)}


def test_the_least_requests_for_its_weight() -> None:
    servers = pool(("a", 3), ("b", 1))
    for _ in range(40):
        url = servers.pick()
        assert url is not None
        servers.balancer.begin(servers.server(url))
    assert [servers.server(url).in_flight for url in "ab"] == [30, 10]


def test_servers_with_nothing_to_do_take_turns_by_their_weights() -> None:
    servers = pool(("a", 3), ("b", 1), ("c", 1))
    assert collections.Counter(servers.picks(500)) == {"a": 300, "b": 100, "c": 100}


# --- by client

NAMES = st.lists(st.text("abcdefghij", min_size=1, max_size=8), min_size=2, max_size=8, unique=True)
CLIENTS = [hash_client(b"%d" % n) for n in range(400)]


@given(NAMES, st.data())
def test_a_server_that_goes_moves_only_its_own_clients(names: list[str], data: st.DataObject) -> None:
    servers = pool(*((name, 1) for name in names), balance="client")
    before = [servers.pick(client) for client in CLIENTS]
    gone = data.draw(st.sampled_from(names))
    servers.words[gone].fell()
    after = [servers.pick(client) for client in CLIENTS]
    for was, now in zip(before, after, strict=True):
        assert now != gone
        assert was in {gone, now}
    servers.words[gone].forget()
    assert [servers.pick(client) for client in CLIENTS] == before


def test_clients_are_spread_by_weight_and_the_same_everywhere() -> None:
    servers = pool(("http://a", 2), ("http://b", 1), ("http://c", 1), balance="client")
    clients = [hash_client(b"%d" % n) for n in range(40_000)]
    picked = collections.Counter(servers.pick(client) for client in clients)
    assert abs(picked["http://a"] - 20_000) < 800
    assert abs(picked["http://b"] - 10_000) < 600
    again = pool(("http://c", 1), ("http://a", 2), ("http://b", 1), balance="client")
    assert [servers.pick(client) for client in clients[:200]] == [
        again.pick(client) for client in clients[:200]
    ]


# --- who is up


def test_backups_serve_only_while_all_others_are_down() -> None:
    servers = pool(("a", 1), ("b", 1), backups=("c",), balance="round_robin")
    servers.words["a"].fell()
    assert set(servers.picks(5)) == {"b"}
    servers.words["b"].fell()
    assert set(servers.picks(5)) == {"c"}
    servers.words["c"].fell()
    assert servers.pick() is None
    servers.words["a"].rose(boottime_us())
    assert set(servers.picks(5)) == {"a"}


def test_a_lone_server_is_asked_whatever_it_did_but_not_when_it_is_down() -> None:
    servers = pool(("a", 1), eject_failures=1)
    servers.fails("a", 100)
    assert servers.pick() == "a"
    servers.words["a"].fell()
    assert servers.pick() is None


def test_failures_in_a_row_eject_and_one_request_finds_out_whether_it_is_back() -> None:
    servers = pool(("a", 1), ("b", 1), eject_failures=3, eject_for_ms=10_000)
    servers.fails("a", 2)
    servers.answers("a")
    servers.fails("a", 2)
    assert set(servers.picks(4)) == {"a", "b"}
    servers.fails("a")
    assert set(servers.picks(4)) == {"b"}
    servers.pass_ejection("a")
    assert servers.picks(4) == ["a", "b", "b", "b"]
    servers.answers("a")
    assert set(servers.picks(4)) == {"a", "b"}


def ejected_s(servers: Pool, url: str) -> int:
    return round((servers.words[url].ejected_until_us - boottime_us()) / 1e6)


def test_each_ejection_in_a_row_takes_twice_as_long_up_to_ten_times() -> None:
    servers = pool(("a", 1), ("b", 1), eject_failures=2, eject_for_ms=10_000)
    servers.fails("a", 2)
    spans = []
    for _ in range(6):
        spans.append(ejected_s(servers, "a"))
        servers.pass_ejection("a")
        assert servers.pick() == "a"
        servers.fails("a")  # the request that tried it
    assert spans == [10, 20, 40, 80, 100, 100]
    servers.pass_ejection("a")
    servers.answers("a")
    servers.words["a"].words[5] = boottime_us() - 101_000_000  # back for long enough
    servers.fails("a", 2)
    assert ejected_s(servers, "a") == 10


def test_the_last_server_is_never_ejected() -> None:
    servers = pool(("a", 1), ("b", 1), ("c", 1), eject_failures=2)
    servers.words["c"].fell()
    servers.fails("a", 2)
    servers.fails("b", 50)
    assert set(servers.picks(5)) == {"b"}


EVENTS = st.tuples(st.sampled_from("abc"), st.sampled_from(["fails", "answers", "over"]))


@given(st.lists(EVENTS, max_size=60))
def test_some_server_is_asked_whatever_fails(events: list[tuple[str, str]]) -> None:
    servers = pool(("a", 1), ("b", 1), backups=("c",), eject_failures=2)
    for url, event in events:
        if event == "fails":
            servers.fails(url)
        elif event == "answers":
            servers.answers(url)
        elif servers.words[url].ejected_until_us:
            servers.pass_ejection(url)
        assert any(not words.ejected_until_us for words in servers.words.values())
        assert servers.pick() is not None


# --- slow start


def share(servers: Pool, url: str) -> float:
    return servers.picks(2000).count(url) / 2000


def test_a_server_that_came_back_gets_its_share_little_by_little() -> None:
    servers = pool(("a", 1), ("b", 1), balance="round_robin", slow_start_ms=10_000)
    assert share(servers, "a") == 0.5
    servers.words["a"].fell()
    servers.words["a"].rose(boottime_us())
    shares = []
    for _ in range(5):
        shares.append(share(servers, "a"))
        servers.wheel.advance(servers.wheel.now + 5 * SECOND // 2)
    expected = [weight / (1 + weight) for weight in (0.1, 0.325, 0.55, 0.775, 1.0)]
    assert all(abs(have - want) < 0.02 for have, want in zip(shares, expected, strict=True)), shares
