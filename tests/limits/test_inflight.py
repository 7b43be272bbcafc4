"""Places: of many that ask for the last one, one gets it; what a process held ends with the process."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from typing import Final

from ratelimitd.limits.inflight import HEADER_SIZE, TABLE_SIZE, InFlight

PAGES: Final = 5
BOUND: Final = 7

# Takes and gives back places of one key, and keeps the most that it ever saw taken; says so at the end.
_ASKER: Final = """
import mmap, sys, time
from ratelimitd.limits.inflight import InFlight
fd, page, bound, pages = map(int, sys.argv[1:])
memory = mmap.mmap(fd, 0)
places = InFlight(memory, 0, pages, page)
print("ready", flush=True)
sys.stdin.readline()
most, got, until = 0, 0, time.monotonic() + 0.6
while time.monotonic() < until:
    held = [1 for _ in range(3) if places.try_enter(42, bound)]
    got += len(held)
    most = max(most, places.count(42))
    for _ in held:
        places.release(42)
print(most, got, flush=True)
if page == 4:
    sys.stdin.readline()  # the others have given back what they held
    while places.try_enter(42, bound):
        pass
    print("holds", flush=True)
    sys.stdin.readline()
"""


def new_memory() -> tuple[int, mmap.mmap]:
    fd = os.memfd_create("places")
    os.ftruncate(fd, HEADER_SIZE + PAGES * TABLE_SIZE)
    return fd, mmap.mmap(fd, 0)


def test_no_more_places_are_taken_than_there_are_by_four_processes() -> None:
    fd, memory = new_memory()
    places = InFlight(memory, 0, PAGES, 0)
    places.initialise()
    askers = [
        subprocess.Popen(
            [sys.executable, "-c", _ASKER, str(fd), str(page), str(BOUND), str(PAGES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(fd,),
            text=True,
        )
        for page in range(1, PAGES)
    ]
    try:
        for asker in askers:
            assert asker.stdout is not None
            assert asker.stdout.readline() == "ready\n"
        for asker in askers:
            assert asker.stdin is not None
            asker.stdin.write("\n")
            asker.stdin.flush()
        seen = [[int(word) for word in line_of(asker).split()] for asker in askers]
        assert max(most for most, _ in seen) <= BOUND
        assert sum(got for _, got in seen) > 1_000
        assert askers[-1].stdin is not None
        askers[-1].stdin.write("\n")
        askers[-1].stdin.flush()
        assert line_of(askers[-1]) == "holds\n"
        assert not places.try_enter(42, BOUND)
        assert places.count(42) == BOUND
        askers[-1].kill()
        askers[-1].wait()
        assert places.count(42) == BOUND, "nothing is forgotten before somebody has reaped the process"
        assert places.clear(PAGES - 1)
        assert places.count(42) == 0
    finally:
        for asker in askers:
            asker.kill()
            asker.communicate()
        os.close(fd)


def line_of(asker: subprocess.Popen[str]) -> str:
    assert asker.stdout is not None
    return asker.stdout.readline()


def test_a_holder_that_dies_with_the_lock_leaves_it_to_the_next() -> None:
    """The kernel gives the lock of a killed process away; kill one that asks all the time, many times."""
    fd, memory = new_memory()
    places = InFlight(memory, 0, PAGES, 0)
    places.initialise()
    program = _ASKER.replace("0.6", "60")
    try:
        for _ in range(5):
            asker = subprocess.Popen(
                [sys.executable, "-c", program, str(fd), "1", str(BOUND), str(PAGES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(fd,),
                text=True,
            )
            assert line_of(asker) == "ready\n"
            asker.kill()
            asker.communicate()
            assert places.clear(1)
            assert places.try_enter(1, 1)
            places.release(1)
    finally:
        os.close(fd)


def test_many_keys_that_come_and_go_do_not_fill_the_table() -> None:
    fd, memory = new_memory()
    places = InFlight(memory, 0, PAGES, 1)
    places.initialise()
    kept = [key << 20 for key in range(1, 101)]
    for key in kept:
        assert places.try_enter(key, 1)
    for key in range(1, 100_000):
        assert places.try_enter(key << 17 | 2, 1)
        places.release(key << 17 | 2)
    assert [places.count(key) for key in kept] == [1] * len(kept)
    assert not any(places.try_enter(key, 1) for key in kept)
    os.close(fd)


def test_more_keys_than_there_is_room_for_are_refused_and_harm_nobody() -> None:
    fd, memory = new_memory()
    places = InFlight(memory, 0, PAGES, 1)
    places.initialise()
    keys = [key << 17 | 2 for key in range(1, 65_536)]
    held = [key for key in keys if places.try_enter(key, 1)]
    assert 50_000 < len(held) < len(keys)
    assert all(places.count(key) == 1 for key in held)
    for key in held:
        places.release(key)
    assert not any(places.count(key) for key in held)
    assert all(places.try_enter(key, 1) for key in keys[-1_000:])
    os.close(fd)
