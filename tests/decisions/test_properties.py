"""What holds for every configuration and every moment: a request is charged to all of its limits or to none,
and a reload changes decisions from one instant on, and loses no count."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimitd.config import load
from ratelimitd.tools.explain import Question, explain
from tests.decisions.table import PROXY, Row
from tests.decisions.test_table import Counting, Table
from tests.servers import LOOPBACK, Nginx

pytestmark = pytest.mark.xdist_group("decision properties")

_clients = itertools.count(1)


@pytest.fixture(scope="module")
def table(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    yield from Table.serve(nginx.url, tmp_path_factory.mktemp("properties"), workers=2)


# --- all or none

LIMITS = st.lists(
    st.fixed_dictionaries(
        {
            "per": st.sampled_from(["client", "global", "path", "header:X-Key", ["client", "path"]]),
            "rate": st.lists(st.integers(3, 9), min_size=1, max_size=2, unique=True),
            "cost": st.integers(1, 3),
            "action": st.sampled_from(["reject", "reject", "observe"]),
            "missing": st.sampled_from(["client", "skip"]),
        }
    ),
    min_size=1,
    max_size=5,
)
ASKED = st.lists(
    st.tuples(
        st.sampled_from(["192.0.2.1", "192.0.2.2"]),
        st.sampled_from(["/a", "/b"]),
        st.sampled_from(["", "one1", "two2"]),
    ),
    min_size=1,
    max_size=25,
)


def limits(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they stand in a file: each with a name, the second rate in a longer window."""
    windows = ("WINDOW", "WINDOW2")
    return [
        limit
        | {"name": f"limit-{n}", "rate": [f"{r}/{w}" for r, w in zip(limit["rate"], windows, strict=False)]}
        for n, limit in enumerate(drawn)
    ]


@settings(max_examples=40)
@given(drawn=LIMITS, asked=ASKED)
def test_a_request_is_charged_to_all_of_its_limits_or_to_none(
    table: Table, drawn: list[dict[str, Any]], asked: list[tuple[str, str, str]]
) -> None:
    """Invariant: the daemon refuses exactly what a count refuses that knows only whole charges."""
    table.use(Row("all or none", "", (), json.dumps({"limits": limits(drawn)})))
    config = load.load_file(str(table.file), {}).config
    counting = Counting(config)
    for client, path, key in asked:
        fields = (f"X-Forwarded-For: {client}", *([f"X-Key: {key}"] if key else []))
        question = Question(f"GET {path}", PROXY, fields)
        possible = counting.outcomes(explain(config, question))
        assert table.ask(question) in possible, question


# --- reloads


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one answer says of its limit, and when the request was sent and answered."""

    sent_at: float
    answered_at: float
    quota: int
    used: int


@dataclasses.dataclass(frozen=True)
class Reload:
    """When it was asked for and when it was reported, and the quota that it put in force."""

    asked_at: float
    done_at: float
    quota: int


async def ask_until(port: int, client: str, ended: asyncio.Event) -> list[Answer]:
    """One request after another on one connection, so through one worker."""
    head = f"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection(LOOPBACK, port, local_addr=(PROXY, 0))
    answers = []
    while not ended.is_set():
        sent_at = time.monotonic()
        writer.write(head)
        fields = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.readexactly(int(one(r"Content-Length: ([0-9]+)", fields)))
        quota, left = one(r'RateLimit-Policy: "each";q=([0-9]+)', fields), one(r'"each";r=([0-9]+)', fields)
        answers.append(Answer(sent_at, time.monotonic(), int(quota), int(quota) - int(left)))
        await asyncio.sleep(0.001)
    writer.close()
    await writer.wait_closed()
    return answers


def one(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.IGNORECASE)
    assert found, text
    return found[1]


async def reload_while_asking(
    table: Table, client: str, pauses_ms: list[int]
) -> tuple[list[list[Answer]], list[Reload]]:
    def reload(quota: int) -> Reload:
        asked_at = time.monotonic()
        table.use(Row("reload", "", (), json.dumps({"limits": [each | {"rate": f"{quota}/1h"}]})))
        return Reload(asked_at, time.monotonic(), quota)

    each = {"name": "each", "per": "client"}
    reloads = [reload(20_000)]
    ended = asyncio.Event()
    asking = [asyncio.create_task(ask_until(table.port, client, ended)) for _ in range(4)]
    for number, pause_ms in enumerate(pauses_ms):
        await asyncio.sleep(pause_ms / 1000)
        reloads.append(await asyncio.to_thread(reload, 20_001 + number))
    await asyncio.sleep(0.02)
    ended.set()
    return await asyncio.gather(*asking), reloads


@settings(max_examples=10)
@given(pauses_ms=st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_a_reload_at_any_moment_changes_decisions_from_the_swap_on(
    table: Table, pauses_ms: list[int]
) -> None:
    """Invariant: on each connection the quotas never go back, each answer is by one that was in force while
    the request was under way, and all answers together count from one on, without a gap."""
    connections, reloads = asyncio.run(reload_while_asking(table, f"198.51.100.{next(_clients)}", pauses_ms))
    quotas = [reload.quota for reload in reloads]
    for answers in connections:
        numbers = [quotas.index(answer.quota) for answer in answers]
        assert numbers == sorted(numbers)
        for answer, number in zip(answers, numbers, strict=True):
            assert reloads[number].asked_at <= answer.answered_at
            assert number == len(reloads) - 1 or answer.sent_at <= reloads[number + 1].done_at
    used = sorted(answer.used for answers in connections for answer in answers)
    assert used == list(range(1, len(used) + 1))
    assert {answers[-1].quota for answers in connections} == {quotas[-1]}
