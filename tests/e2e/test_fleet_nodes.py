"""A node of a fleet is lost, with leases in its hands or cut off from the store in a network of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.fleet import Rate, assert_answers, assert_quick, assert_within, fleet_of, now_us
from tests.e2e.trial import BACK_WITHIN_S, PATHS, RATE, Trial, assert_said
from tests.fleet_load import BROKEN
from tests.redis_servers import Redis
from tests.servers import LOOPBACK, Nginx

pytestmark = pytest.mark.slow


def test_killed_with_leases_in_hand(tmp_path: Path, nginx: Nginx) -> None:
    """Its units are lost for a window, nobody else's: the other node goes on, and so does a new one."""
    rate = Rate(400, 4)  # at half load: leases of several units
    with Redis(tmp_path / "redis") as redis, fleet_of(tmp_path, nginx.url, redis.url, [rate]) as fleet:
        trial = Trial(fleet, rate, seconds=12, load=PATHS * 50)
        trial.pass_time(0.5)
        fleet.nodes[1].kill()
        trial.pass_time(0.5)
        fleet.nodes[1].restart()
        answers = trial.answers()
        assert_answers(answers, 200, 429, BROKEN)
        assert_quick(answers, fleet.deadline_ms)
        assert {answer.node for answer in answers if answer.status == BROKEN} <= {1}
        assert_within(fleet.admitted(), rate, rate.count)
        assert_said(fleet, 0, 0)
        assert fleet.nodes[0].is_up()
        served = sum(answer.status == 200 for answer in answers if answer.status != BROKEN)
        assert served >= 0.85 * len(answers), "half load passes"


class Network:
    """A network namespace with one way to this one for clients and web servers, and another for the store."""

    WEB: Final = ("10.203.77.1", "10.203.77.2")  # here, there
    STORE: Final = ("10.203.78.1", "10.203.78.2")

    def __init__(self) -> None:
        self.name = f"ratelimitd-{os.getpid()}"
        self._store_link = f"rls{os.getpid()}"
        _ip("netns", "add", self.name)
        for link, (here, there) in ((f"rlw{os.getpid()}", self.WEB), (self._store_link, self.STORE)):
            _ip("link", "add", link, "type", "veth", "peer", "name", "to-" + link[:3], "netns", self.name)
            _ip("address", "add", f"{here}/30", "dev", link)
            _ip("link", "set", link, "up")
            _ip("-n", self.name, "address", "add", f"{there}/30", "dev", "to-" + link[:3])
            _ip("-n", self.name, "link", "set", "to-" + link[:3], "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        self.prefix = ("ip", "netns", "exec", self.name)

    def set_store(self, state: str) -> None:
        """`down`: packets between the store and the namespace vanish."""
        _ip("link", "set", self._store_link, state)

    def remove(self) -> None:
        _ip("netns", "delete", self.name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    network = Network()
    yield network
    network.remove()


def test_cut_off_from_the_store(tmp_path: Path, network: Network) -> None:
    """The node cut off lives on its share; the others know nothing of it and use the whole limit."""
    options = ("--bind", "0.0.0.0", "--protected-mode", "no")
    with (
        Nginx(tmp_path / "nginx", listen="0.0.0.0") as nginx,
        Redis(tmp_path / "redis", options=options) as redis,
    ):
        upstream, store = f"http://{network.WEB[0]}:{nginx.port}", f"redis://{network.STORE[0]}:{redis.port}"
        hosts = [(LOOPBACK, ()), (network.WEB[1], network.prefix)]
        with fleet_of(tmp_path, upstream, store, [RATE], hosts=hosts) as fleet:
            there, cut_off = fleet.nodes
            trial = Trial(fleet, seconds=9)
            trial.pass_time()
            network.set_store("down")
            fleet.wait_store(up=False, within_s=5, nodes=[cut_off])
            known_us = now_us()
            trial.pass_time(3)
            assert there.is_up()
            network.set_store("up")
            fleet.wait_store(up=True, within_s=BACK_WITHIN_S + 1, nodes=[cut_off])
            back_us = now_us()
            answers = trial.answers()
            assert_answers(answers, 200, 429)
            assert_quick(answers, fleet.deadline_ms)
            admitted = fleet.admitted()
            assert_within(admitted, RATE, RATE.count + RATE.share(2))
            assert_within(admitted, RATE, RATE.count, after_us=back_us)
            alone = fleet.admitted_by(cut_off)
            during = {path: [i for i in instants if i < back_us] for path, instants in alone.items()}
            assert_within(during, RATE, RATE.share(2), after_us=known_us)
            assert_said(fleet, there.index, 0)
            assert_said(fleet, cut_off.index, 2)
            assert cut_off.exceptions("cut_off") + cut_off.exceptions("store_lost") >= 1
