"""The access log in journald: entries as its protocol has them, read from a real datagram socket; never a
long wait, and no line that is lost and not counted."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ratelimitd.config.model import Log
from ratelimitd.control import journald
from ratelimitd.control.access_log import AccessLogWriter
from ratelimitd.control.journald import Journald
from ratelimitd.errors import StartError
from ratelimitd.segment.ring import Ring
from tests.servers import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = (
    b'{"time":"2026-01-01T00:00:00Z","client":"203.0.113.9","method":"GET","target":"/a\\nb","status":429,'
    b'"outcome":"limited","limit":"per-client","upstream":null,"request_id":"r-1"}'
)


class Reader:
    """Where entries arrive, at a path as journald's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(10)

    def entry(self) -> dict[str, str]:
        data, fds, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
        if fds:
            with open(fds[0], "rb") as file:
                file.seek(0)
                data = file.read()
        lines = data.decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def close(self) -> None:
        self._socket.close()
        self.path.unlink()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with contextlib.closing(Reader(tmp_path / "socket")) as reader:
        yield reader


def test_a_line_is_an_entry_with_fields(reader: Reader) -> None:
    with contextlib.closing(Journald(str(reader.path))) as journal:
        assert journal.write(LINE + b"\n" + b'203.0.113.9 - - "GET / HTTP/1.1" 200 5\n') == (0, "")
        assert reader.entry() == {
            "MESSAGE": LINE.decode(),
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "ratelimitd",
            "RATELIMITD_CLIENT": "203.0.113.9",
            "RATELIMITD_METHOD": "GET",
            "RATELIMITD_STATUS": "429",
            "RATELIMITD_OUTCOME": "limited",
            "RATELIMITD_LIMIT": "per-client",
            "RATELIMITD_REQUEST_ID": "r-1",
        }
        assert reader.entry()["MESSAGE"].startswith("203.0.113.9 - - "), "the combined format is a message"


def test_a_line_break_in_a_value_makes_no_field(reader: Reader) -> None:
    with contextlib.closing(Journald(str(reader.path))) as journal:
        journal.write(b'{"client":"a","request_id":"x\\nMESSAGE=forged"}\n')
        assert list(reader.entry()) == ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "RATELIMITD_CLIENT"]


def test_a_line_of_any_length_arrives(reader: Reader) -> None:
    with contextlib.closing(Journald(str(reader.path))) as journal:
        line = b"x" * 500_000
        assert journal.write(line + b"\n") == (0, "")
        assert reader.entry()["MESSAGE"] == line.decode()


def test_one_that_stands_still_is_waited_for_once_and_costs_counted_lines(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journald, "PATIENCE_S", 0.2)
    with contextlib.closing(Journald(str(reader.path))) as journal:
        start_s = time.monotonic()
        lost, why = journal.write(b"line\n" * 2_000)
        assert time.monotonic() - start_s < 5
        assert 0 < lost < 2_000
        assert why == "it takes nothing"
        for _ in range(2_000 - lost):
            assert reader.entry()["MESSAGE"] == "line"
        assert journal.write(b"again\n") == (0, "")
        assert reader.entry()["MESSAGE"] == "again"


def test_one_that_is_started_anew_is_found_again(tmp_path: Path) -> None:
    first = Reader(tmp_path / "socket")
    with contextlib.closing(Journald(str(first.path))) as journal:
        first.close()
        assert journal.write(b"lost\n") == (1, os.strerror(2))
        with contextlib.closing(Reader(tmp_path / "socket")) as second:
            assert journal.write(b"found\n") == (0, "")
            assert second.entry()["MESSAGE"] == "found"


def test_without_one_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"journald cannot be reached at .*: No such file or directory"):
        Journald(str(tmp_path / "socket"))


def test_the_writer_counts_what_it_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = Reader(tmp_path / "socket")
    monkeypatch.setattr(journald, "SOCKET", str(first.path))
    ring = Ring(mmap.mmap(-1, 1 << 17), 0, 1 << 16)
    writer = AccessLogWriter([ring], Log(destination="journald"))
    ring.append(LINE + b"\n")
    assert first.entry()["RATELIMITD_OUTCOME"] == "limited"
    first.close()
    for _ in range(3):
        ring.append(b"lost\n")
    wait_until(lambda: writer.dropped == 3, "counted")
    assert [("cannot write to journald" in message) for message in caplog.messages] == [True]
    writer.reopen()
    writer.close()
