# Types of the compiled module, checked against it by mypy.stubtest.

from mmap import mmap
from typing import Self

class Shared:
    linked: bool
    @property
    def offset_us(self) -> int: ...
    def __new__(cls, memory: mmap, first_word: int, wall_offset_us: int) -> Self: ...
    def learn(self, time_us: int, sent_us: int) -> None: ...
