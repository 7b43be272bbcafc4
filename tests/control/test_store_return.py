"""After an outage limits are shared again when this node has told what it owes, and the others are back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ratelimitd.control import store_return
from ratelimitd.control.store_report import Exceptions
from ratelimitd.control.store_return import Return
from ratelimitd.control.store_session import Session
from ratelimitd.errors import StoreFault
from ratelimitd.fleet.signs import Fleet
from ratelimitd.segment import layout
from ratelimitd.segment.memory import Segment, boottime_us
from ratelimitd.segment.store import StoreMode, StoreWords
from tests.control.test_store_session import at

NOBODY = Session(at(), lambda _: None)


def fleet(back: int) -> Fleet:
    return Fleet(alive=4, back=back, others_held_ms=0, incarnation=1, time_us=5_000_000)


class Scene:
    """A return whose push the test ends."""

    def __init__(self) -> None:
        self.segment = Segment.create(1_000, layout.FIRST_WORKER_PAGE + 1)
        self.words = StoreWords(self.segment.memory)
        self.words.open_breaker(boottime_us())
        self.exceptions = Exceptions(lambda *_, **__: None)
        self.pushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pushes: list[bool] = []
        self.failures: list[str] = []
        self.done = asyncio.Event()
        self.back = Return(self.words, self._push, self.done.set, self.failures.append, self.exceptions)

    async def _push(self, _: Session, everything: bool) -> None:
        self.pushes.append(everything)
        await self.pushed

    async def push_ends(self) -> None:
        self.pushed.set_result(None)
        await self.done.wait()

    def is_shared(self) -> bool:
        return self.words.read().mode is StoreMode.SHARED

    def is_returning(self) -> bool:
        return self.words.read().mode is StoreMode.BOTH


def run(play: Callable[[Scene], Any]) -> None:
    async def scene() -> None:
        scene = Scene()
        await play(scene)
        await scene.back.close()

    asyncio.run(scene())


def test_both_must_agree_until_all_have_told() -> None:
    async def play(scene: Scene) -> None:
        scene.back.begin(NOBODY, fleet(0), 3, everything=False)
        assert (scene.is_returning(), scene.back.held_ms(boottime_us())) == (True, 0)
        scene.back.take(fleet(4))
        assert scene.is_returning(), "this node has not told yet"
        await scene.push_ends()
        assert scene.back.held_ms(boottime_us()) >= 1
        scene.back.take(fleet(2))
        assert scene.is_returning()
        scene.back.take(fleet(3))
        assert scene.is_shared()
        assert scene.pushes == [False]

    run(play)


@pytest.mark.parametrize(("everything", "counted"), [(True, 1), (False, 0)])
def test_who_does_not_come_back_is_not_waited_for_longer(
    monkeypatch: pytest.MonkeyPatch, everything: bool, counted: int
) -> None:
    """With the data lost, what it had admitted is known to nobody."""

    async def play(scene: Scene) -> None:
        scene.back.begin(NOBODY, fleet(0), 3, everything=everything)
        await scene.push_ends()
        monkeypatch.setattr(store_return, "MOST_US", 0)
        scene.back.take(fleet(2))
        assert scene.is_shared()
        assert scene.exceptions.counts["node_died"] == counted

    run(play)


def test_a_loss_in_between_begins_anew() -> None:
    async def play(scene: Scene) -> None:
        scene.back.begin(NOBODY, fleet(0), 3, everything=True)
        await asyncio.sleep(0)
        scene.words.open_breaker(boottime_us())
        scene.back.lost()
        scene.pushed = asyncio.get_running_loop().create_future()
        scene.back.begin(NOBODY, fleet(0), 1, everything=False)
        await scene.push_ends()
        scene.back.take(fleet(1))
        assert scene.is_returning(), "those of the return before are still missing"
        scene.back.take(fleet(3))
        assert scene.is_shared()

    run(play)


def test_a_push_that_fails_is_told() -> None:
    async def play(scene: Scene) -> None:
        scene.back.begin(NOBODY, fleet(0), 1, everything=False)
        await asyncio.sleep(0)
        scene.pushed.set_exception(StoreFault("gone again"))
        while not scene.failures:
            await asyncio.sleep(0)
        assert scene.failures == ["gone again"]
        scene.back.take(fleet(4))
        assert scene.is_returning()

    run(play)


@pytest.mark.parametrize("told", [True, False])
def test_a_return_that_was_broken_off_is_followed_by_one_that_tells_everything(told: bool) -> None:
    """What was on its way, by the push or by a worker, is not marked any more and may not have arrived."""

    async def play(scene: Scene) -> None:
        for others_back in (0, 1, 1):
            scene.words.open_breaker(boottime_us())
            scene.back.lost()
            scene.done.clear()
            scene.pushed = asyncio.get_running_loop().create_future()
            scene.back.begin(NOBODY, fleet(0), 1, everything=False)
            await asyncio.sleep(0)
            if told or others_back:
                await scene.push_ends()
                scene.back.take(fleet(others_back))
            assert scene.is_shared() == bool(others_back)
        assert scene.pushes == [False, True, False]

    run(play)
