"""The sampler before a real segment: what it reads, orders and says, and what it does without files."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ratelimitd.config.model import Shedding
from ratelimitd.control import catalogue
from ratelimitd.control.demand import Demand
from ratelimitd.control.pressure import Sampler
from ratelimitd.segment.memory import Segment, boottime_us
from ratelimitd.segment.pages import Page
from ratelimitd.segment.shedding import MILLION, ShedOrder, ShedWords
from tests.control.daemon import config

EVERY_US = 250_000
ALL = (MILLION,) * 4
BIND = config().listen[0].bind


def keep_nothing(*_: object, **__: object) -> None:
    """A journal that nobody reads."""


class Machine:
    """A segment with two workers' pages, a /proc that the test writes, a sampler on a clock of its own."""

    def __init__(self, directory: Path) -> None:
        self.segment = Segment.create(entries=100, pages=4)
        catalogue.register(config(), self.segment.registry)
        self.pages = [self.segment.page(2), self.segment.page(3)]
        self.proc = directory
        self.wanted_ns = {101: 0, 102: 0}
        self.shedding = Shedding()
        self.events: list[str] = []
        self.now_us = boottime_us()
        for page, pid in zip(self.pages, self.wanted_ns, strict=True):
            page.claim(pid)
        self.sampler = Sampler(
            self.segment,
            lambda: self.pages,
            lambda: self.shedding,
            lambda event, *_, **__: self.events.append(event),
            proc=directory,
            cgroups=directory,
        )
        self.look()

    def look(self, busy: float = 0.0, lag_ms: float = 0.0, times: int = 1) -> ShedOrder:
        """`times` samples of 250 ms; the second worker is the one that is busy and late."""
        for _ in range(times):
            self.now_us += EVERY_US
            self.wanted_ns[102] += round(busy * EVERY_US * 1000)
            self.pages[0].beat(self.now_us, 0)
            self.pages[1].beat(self.now_us, round(lag_ms * 1000))
            self.write_proc()
            self.sampler.look(self.now_us)
        return self.order

    def write_proc(self) -> None:
        for pid, wanted_ns in self.wanted_ns.items():
            (self.proc / str(pid)).mkdir(exist_ok=True)
            (self.proc / str(pid) / "schedstat").write_text(f"{wanted_ns} 0 1\n")

    @property
    def order(self) -> ShedOrder:
        return ShedWords(self.segment.memory).read()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(logging.getLogger("ratelimitd"), "propagate", True)
    machine = Machine(tmp_path)
    yield machine
    machine.segment.close()


def test_a_new_segment_orders_nothing() -> None:
    segment = Segment.create(entries=100, pages=4)
    assert ShedWords(segment.memory).read().is_void(boottime_us())
    segment.close()


def test_the_worker_that_is_worst_off_decides(machine: Machine) -> None:
    machine.pages[0].arrivals[0] = machine.pages[1].arrivals[3] = 500
    order = machine.look(busy=1.0, lag_ms=100, times=2)
    assert order.level == round(0.42 * MILLION)
    assert order.passing == (MILLION, MILLION, MILLION, round((1 - 2 * 0.42) * MILLION))
    assert order.sampled_us == machine.now_us
    assert not order.is_void(machine.now_us + 1_800_000)
    assert order.is_void(machine.now_us + 1_800_001)


def test_lag_of_one_and_want_of_none_sheds_nothing(machine: Machine) -> None:
    assert machine.look(busy=0.5, lag_ms=500, times=20).passing == ALL


def test_a_worker_that_is_not_heard_from_does_not_count(machine: Machine) -> None:
    machine.pages[1].beat(machine.now_us - 2_000_000, 400_000)
    for _ in range(20):
        machine.now_us += EVERY_US
        machine.pages[0].beat(machine.now_us, 0)
        machine.wanted_ns[102] += EVERY_US * 1000
        machine.write_proc()
        machine.sampler.look(machine.now_us)
    assert machine.order.level == 0


def test_vanished_files_end_shedding_and_it_is_said(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.pages[1].arrivals[2] = 500
    assert machine.look(busy=1.0, lag_ms=400, times=4).level > 0
    before_us = machine.now_us
    for pid in machine.wanted_ns:
        (machine.proc / str(pid) / "schedstat").unlink()
    for _ in range(9):
        machine.now_us += EVERY_US
        for page in machine.pages:
            page.beat(machine.now_us, 400_000)
        machine.sampler.look(machine.now_us)
    assert machine.order.level == 0
    assert machine.order.is_void(before_us + 2_000_000)
    assert "nothing can be shed: the workers' CPU time or lag cannot be read" in caplog.text
    assert caplog.text.count("nothing can be shed") == 1
    assert machine.sampler.report().signals["busy"] == "no worker's /proc/PID/schedstat can be read"
    with caplog.at_level(logging.INFO):
        machine.look()
        machine.look()
    assert "pressure is sampled again" in caplog.text


def test_a_surge_is_told_once_and_so_is_its_end(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    shed = machine.segment.registry.series("ratelimitd_requests_total", (BIND, "shed"))
    machine.look(busy=1.0, lag_ms=100, times=3)
    machine.pages[1].slots[shed] = 77
    machine.look(busy=0.2, times=9)
    machine.look(busy=1.0, lag_ms=100, times=3)
    machine.look(busy=0.2, times=50)
    assert machine.events == ["shed_start", "shed_end"]
    assert caplog.text.count("shedding starts at 42% of requests") == 1
    assert caplog.text.count("and refused 77 in all") == 1


def test_signal_none_sheds_nothing_and_says_so(machine: Machine) -> None:
    machine.look(busy=1.0, lag_ms=400, times=4)
    machine.shedding = msgspec.structs.replace(machine.shedding, signal="none")
    order = machine.look(busy=1.0, lag_ms=400)
    assert (order.level, order.passing) == (0, ALL)
    assert "signal is none" in machine.sampler.report().why


def test_settings_are_those_in_force(machine: Machine) -> None:
    assert machine.look(busy=0.8, lag_ms=400, times=4).level == 0
    machine.shedding = Shedding(busy=0.7)
    assert machine.look(busy=0.8, lag_ms=400, times=2).level > 0


def test_a_report_is_json_and_explains_itself(machine: Machine) -> None:
    machine.look(busy=1.0, lag_ms=100, times=2)
    shown = msgspec.json.decode(msgspec.json.encode(machine.sampler.report()))
    assert shown["level"] == 0.42
    assert shown["why"] == "42% of requests are shed: the workers want all of their CPU and are late"
    assert shown["samples"][-1] | {"at_us": 0} == {
        "at_us": 0,
        "span_us": EVERY_US,
        "busy": 1.0,
        "lag_us": 100_000,
        "throttled": None,
        "stall": None,
        "ran": 1.0,
        "queue_us": 0,
    }
    assert shown["signals"] == {
        "busy": "read",
        "lag": "read",
        "throttled": "no CPU quota is set",
        "stall": "the kernel has no PSI",
    }


def test_a_report_long_after_the_last_look_says_so(machine: Machine) -> None:
    machine.now_us -= 60_000_000 + 3 * EVERY_US
    machine.sampler = Sampler(
        machine.segment,
        lambda: machine.pages,
        lambda: machine.shedding,
        keep_nothing,
        proc=machine.proc,
        cgroups=machine.proc,
    )
    machine.look(busy=1.0, lag_ms=100, times=3)
    assert machine.order.level > 0
    report = machine.sampler.report()
    assert report.level == 0.0
    assert re.fullmatch(r"nothing is shed: the last sample is (59|6\d)\.\d s old", report.why)


def test_what_was_shed_long_ago_is_forgotten() -> None:
    segment = Segment.create(entries=100, pages=4)
    catalogue.register(config(), segment.registry)
    slot = segment.registry.series("ratelimitd_requests_total", (BIND, "shed"))
    page, demand = segment.page(2), Demand(segment.registry)
    page.claim(7)
    demand.look([page], [page], 1_000_000)
    page.slots[slot], page.arrivals[3] = 60, 100
    demand.look([page], [page], 1_500_000)
    assert demand.shed_lately() == 60
    assert demand.arrivals() == (0, 0, 0, 100)
    assert demand.per_s() == (200.0, 80.0)
    demand.look([page], [page], 2_500_000)
    assert demand.arrivals() == (0, 0, 0, 0)
    assert demand.shed_lately() == 60
    demand.look([], [page], 11_500_000)
    assert demand.shed_lately() == 0
    assert demand.shed_total == 60
    segment.close()


def test_a_real_process_is_seen_to_want_its_cpu() -> None:
    segment = Segment.create(entries=100, pages=3)
    catalogue.register(config(), segment.registry)
    page = segment.page(2)
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        page.claim(spinning.pid)
        found = [sample_of(segment, page)]
        page.claim(os.getpid())
        found.append(sample_of(segment, page))
    finally:
        spinning.kill()
        spinning.wait()
    assert found[0] > 0.9
    assert found[1] < 0.9
    segment.close()


def sample_of(segment: Segment, page: Page) -> float:
    """How much the owner of `page` wanted in half a second."""
    sampler = Sampler(segment, lambda: [page], Shedding, keep_nothing)
    for _ in range(2):
        page.beat(boottime_us())
        sampler.look(boottime_us())
        time.sleep(0.5)
    busy = sampler.report().busy
    assert busy is not None
    return busy
