"""Tables for tests: in private memory, and the same memory in the hands of a build that dies on purpose.

`Mortal` is the core of the table compiled so that every store is a crash point. A decision of it runs in a
thread of its own that ends after a given number of stores; the kernel releases the locks of that thread as
it does for a killed process. What is left behind is then the business of the table under test.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ratelimitd.limits.table import Request, Table

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
HEADER_SIZE = 4096
TMAX_OFFSET = 40  # of a stripe, behind its lock


class TableMemory:
    """A table and its memory."""

    def __init__(self, stripes: int = 1, buckets_per_stripe: int = 2) -> None:
        self.stripes = stripes
        self.buckets_per_stripe = buckets_per_stripe
        self.memory = mmap.mmap(-1, HEADER_SIZE + stripes * (64 + buckets_per_stripe * 1088))
        self.table = self.attach()
        self.table.initialise()

    def attach(self) -> Table:
        """Another process's view, as far as the table can tell."""
        return Table(self.memory, HEADER_SIZE, self.stripes, self.buckets_per_stripe)

    def set_tmax(self, stripe: int, instant_us: int) -> None:
        at = HEADER_SIZE + 64 * stripe + TMAX_OFFSET
        self.memory[at : at + 8] = instant_us.to_bytes(8, "little")


@functools.cache
def build(source: str, *flags: str) -> Path:
    """Compile a C file of this directory once per session."""
    target = Path(tempfile.mkdtemp(prefix="ratelimitd-test-")) / (source.removesuffix(".c") + ".bin")
    compiler = str(sysconfig.get_config_var("CC")).split()[0]
    command = [
        compiler,
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
        "-DTABLE_CRASH_POINTS",
    ]
    subprocess.run([*command, f"-I{ROOT}", *flags, str(HERE / source), "-o", str(target)], check=True)
    return target


class _Charge(ctypes.Structure):
    _fields_ = [
        ("key", ctypes.c_uint64),
        ("slot_us", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("cost", ctypes.c_uint32),
        ("limit_id", ctypes.c_uint16),
        ("generation", ctypes.c_uint16),
        ("shift", ctypes.c_uint8),
        ("observe", ctypes.c_uint8),
        ("over", ctypes.c_uint8),
        ("used", ctypes.c_uint32),
    ]


class Mortal:
    """The table of `memory` in the build with crash points."""

    def __init__(self, memory: TableMemory) -> None:
        self._library = ctypes.CDLL(str(build("mortal.c", "-shared", "-fPIC")))
        self._view = (ctypes.c_char * len(memory.memory)).from_buffer(memory.memory)
        self._where = (
            ctypes.c_void_p(ctypes.addressof(self._view)),
            ctypes.c_uint32(memory.stripes),
            ctypes.c_uint32(memory.buckets_per_stripe),
        )

    def decide(self, requests: Sequence[Request], now_us: int, stores: int) -> bool:
        """Decide and die after `stores` stores; whether there were as many."""
        charges = (_Charge * len(requests))(
            *(
                _Charge(r.key, r.slot_us, r.limit, r.cost, r.limit_id, r.generation, r.shift, r.observe)
                for r in requests
            )
        )
        died = self._library.mortal_admit(
            *self._where, charges, ctypes.c_int(len(requests)), ctypes.c_uint64(now_us), ctypes.c_long(stores)
        )
        return bool(died)

    def ban(self, key: int, until_us: int, now_us: int, stores: int) -> bool:
        """Ban and die after `stores` stores; whether there were as many."""
        instants = ctypes.c_uint64(until_us), ctypes.c_uint64(now_us)
        died = self._library.mortal_ban(*self._where, ctypes.c_uint64(key), *instants, ctypes.c_long(stores))
        return bool(died)

    def lock(self, stripe: int) -> None:
        assert self._library.mortal_lock(*self._where, ctypes.c_uint32(stripe)) == 0

    def unlock(self, stripe: int) -> None:
        assert self._library.mortal_unlock(*self._where, ctypes.c_uint32(stripe)) == 0
