"""The shared segment: one memfd that supervisor and workers map whole.

`create` makes a new one with its secret and clocks; `attach` maps one that another process made and refuses
what it cannot read: another magic, layout version, boot or size. Nothing is ever converted. The segment
lives as long as somebody holds its descriptor or a mapping: workers may come and go.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import uuid
from pathlib import Path
from typing import Final

from ratelimitd.errors import SegmentError
from ratelimitd.segment import layout
from ratelimitd.segment.pages import Page
from ratelimitd.segment.registry import Registry
from ratelimitd.segment.ring import Ring
from ratelimitd.segment.servers import ServerWords

_WORD: Final = struct.Struct("=Q")
_SIGNED_WORD: Final = struct.Struct("=q")


def boottime_us() -> int:
    """The clock of the segment and its table: it counts through a suspend and is never set."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Segment:
    """A mapped segment. `memory` is the whole of it; `registry` gives ids and slots."""

    def __init__(self, fd: int, memory: mmap.mmap, *, registers: bool) -> None:
        self.fd: Final = fd
        self.memory: Final = memory
        self.secret: Final = bytes(memory[layout.HEADER_SECRET : layout.HEADER_SECRET + 16])
        (self.wall_offset_us,) = _SIGNED_WORD.unpack_from(memory, layout.HEADER_WALL_OFFSET_US)
        self.pages: Final = self.word(layout.HEADER_PAGES)
        self._layout: Final = layout.layout(self.word(layout.HEADER_ENTRIES), self.pages)
        self.table: Final = self._layout.table
        self.registry: Final = Registry(memory, self._layout, registers=registers)

    @classmethod
    def create(cls, entries: int, pages: int, secret: bytes | None = None) -> Segment:
        """A new segment with a table of at least `entries` entries and `pages` pages for processes.

        `secret` is what keys of limits are hashed with, where other machines must hash them alike."""
        plan = layout.layout(entries, pages)
        fd = os.memfd_create("ratelimitd", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, plan.size)
            memory = mmap.mmap(fd, plan.size)
        except OSError as error:
            os.close(fd)
            raise SegmentError(
                f"cannot reserve {plan.size >> 20} MiB of shared memory for {entries} entries "
                f"({error.strerror}): make store_options.entries smaller or give the service more memory"
            ) from None
        _write_header(memory, entries, pages, plan.size, secret)
        segment = cls(fd, memory, registers=True)
        segment.page(layout.BASE_PAGE).claim(os.getpid())
        segment.page(layout.SUPERVISOR_PAGE).claim(os.getpid())
        return segment

    @classmethod
    def attach(cls, fd: int) -> Segment:
        """Map the segment that another process made. Its registries can be read, not extended."""
        size = os.fstat(fd).st_size
        if size < layout.HEADER_SIZE:
            raise SegmentError(f"shared memory of {size} bytes is too small to be a segment of ratelimitd")
        memory = mmap.mmap(fd, size)
        _check_header(memory, size)
        return cls(fd, memory, registers=False)

    def close(self) -> None:
        """Give back the descriptor; the mapping goes when its last user goes."""
        os.close(self.fd)

    def word(self, offset: int) -> int:
        """An unsigned 64-bit word of the segment."""
        value: int = _WORD.unpack_from(self.memory, offset)[0]
        return value

    def page_offset(self, index: int) -> int:
        """Where page `index` begins in the segment."""
        if not 0 <= index < self.pages:
            raise SegmentError(f"page {index} is outside of the {self.pages} pages of the segment")
        return self._layout.pages + index * layout.PAGE_SIZE

    @property
    def limit_secret(self) -> bytes:
        """What the keys of limits are hashed with: this machine's own, or the fleet's."""
        return bytes(self.memory[layout.HEADER_LIMIT_SECRET : layout.HEADER_LIMIT_SECRET + 16])

    def adopt(self, limit_secret: bytes) -> None:
        """Hash keys of limits with another secret. Who compiled a policy before goes on with the old one."""
        self.memory[layout.HEADER_LIMIT_SECRET : layout.HEADER_LIMIT_SECRET + 16] = limit_secret

    @property
    def inflight_offset(self) -> int:
        """Where the counts of what is in flight begin."""
        return self._layout.inflight

    def server(self, index: int) -> ServerWords:
        """How the web server does whose requests in flight are counted in slot `index`."""
        if not 0 <= index < layout.SLOTS_PER_PAGE:
            raise SegmentError(f"there is no web server {index} in the segment")
        return ServerWords(self.memory, self._layout.servers + index * layout.SERVER_SIZE)

    def server_named(self, name: tuple[str, str]) -> ServerWords:
        """The same for a server by its upstream and URL, which must have been registered."""
        return self.server(self.registry.series("ratelimitd_upstream_inflight", name))

    def page(self, index: int) -> Page:
        return Page(self.memory, self.page_offset(index))

    def ring(self, index: int) -> Ring:
        """The ring of log lines that the owner of page `index` writes into."""
        if not 0 <= index < self.pages:
            raise SegmentError(f"ring {index} is outside of the {self.pages} rings of the segment")
        return Ring(self.memory, self._layout.rings + index * layout.RING_STRIDE, layout.RING_SIZE)


def _write_header(memory: mmap.mmap, entries: int, pages: int, size: int, limit_secret: bytes | None) -> None:
    now_us = boottime_us()
    wall_us = time.time_ns() // 1000
    _WORD.pack_into(memory, layout.HEADER_VERSION, layout.LAYOUT_VERSION)
    memory[layout.HEADER_BOOT_ID : layout.HEADER_BOOT_ID + 16] = _boot_id()
    secret = os.urandom(16)
    memory[layout.HEADER_SECRET : layout.HEADER_SECRET + 16] = secret
    memory[layout.HEADER_LIMIT_SECRET : layout.HEADER_LIMIT_SECRET + 16] = limit_secret or secret
    _SIGNED_WORD.pack_into(memory, layout.HEADER_WALL_OFFSET_US, wall_us - now_us)
    _WORD.pack_into(memory, layout.HEADER_SIZE_OF_SEGMENT, size)
    _WORD.pack_into(memory, layout.HEADER_ENTRIES, entries)
    _WORD.pack_into(memory, layout.HEADER_PAGES, pages)
    # Last: a header that is half written is no header.
    memory[layout.HEADER_MAGIC : layout.HEADER_MAGIC + 8] = layout.MAGIC


def _check_header(memory: mmap.mmap, size: int) -> None:
    if memory[layout.HEADER_MAGIC : layout.HEADER_MAGIC + 8] != layout.MAGIC:
        raise SegmentError("the shared memory passed to this process is not a segment of ratelimitd")
    (version,) = _WORD.unpack_from(memory, layout.HEADER_VERSION)
    if version != layout.LAYOUT_VERSION:
        raise SegmentError(f"the segment has layout {version}, this program reads {layout.LAYOUT_VERSION}")
    if memory[layout.HEADER_BOOT_ID : layout.HEADER_BOOT_ID + 16] != _boot_id():
        raise SegmentError("the segment was made before the machine booted: its clock means nothing now")
    (expected,) = _WORD.unpack_from(memory, layout.HEADER_SIZE_OF_SEGMENT)
    (entries,) = _WORD.unpack_from(memory, layout.HEADER_ENTRIES)
    (pages,) = _WORD.unpack_from(memory, layout.HEADER_PAGES)
    if expected != size or layout.layout(entries, pages).size != size:
        raise SegmentError(f"the segment says {expected} bytes and has {size}: it was cut or damaged")


def _boot_id() -> bytes:
    return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()).bytes
