"""The journal remembers what happened, in memory and in a file, and never holds anybody up."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from ratelimitd.config import model
from ratelimitd.control.answers import Event
from ratelimitd.control.journal import REMEMBERED, Journal, _File, rfc3339
from ratelimitd.errors import StartError
from tests.control.admin_client import exactly

DAY_MS = 86_400_000


def in_file(path: Path, keep_ms: int = DAY_MS) -> Journal:
    journal = Journal(model.Journal(str(path), keep_ms))
    journal.open()
    return journal


def lines(path: Path) -> list[Event]:
    return [exactly(line, Event) for line in path.read_bytes().splitlines()]


def event(age: timedelta, name: str = "old") -> bytes:
    at_us = int((datetime.now(UTC) - age).timestamp() * 1_000_000)
    return msgspec.json.encode(Event(rfc3339(at_us), name, "it happened")) + b"\n"


def test_instants_are_texts_that_compare_as_they_do() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert rfc3339(1_790_000_000_000_001) == "2026-09-21T14:13:20.000001Z"
    instants = [0, 1, 999_999, 1_000_000, 1_790_000_000_000_000, 1_790_000_000_900_000]
    assert sorted(map(rfc3339, instants)) == list(map(rfc3339, instants))


def test_memory_is_bounded_and_times_are_distinct_and_in_order() -> None:
    journal = Journal(model.Journal())
    journal.open()
    for number in range(REMEMBERED + 5):
        journal.note("tick", "a tick", number=number)
    events = journal.since("")
    assert [found.details["number"] for found in events] == list(range(5, REMEMBERED + 5))
    times = [found.time for found in events]
    assert times == sorted(set(times))
    assert journal.since(times[-3]) == events[-2:]
    assert journal.since(times[-1]) == ()
    assert (journal.place, journal.dropped) == ("memory", 0)
    journal.close()


def test_a_clock_that_is_set_back_takes_no_event_out_of_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(model.Journal())
    journal.note("before", "it was noon")
    monkeypatch.setattr("ratelimitd.control.journal.time.time_ns", lambda: 0)
    journal.note("after", "it is morning again")
    journal.note("later", "and at the same instant")
    before, after, later = journal.since("")
    assert before.time < after.time < later.time


def test_a_file_has_every_event_when_the_journal_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = in_file(path)
    for number in range(300):
        journal.note("tick", "line\nbreaks \N{SNOWMAN}", number=number)
    journal.close()
    assert lines(path) == list(journal.since(""))
    assert path.read_bytes().count(b"\n") == 300
    assert path.stat().st_mode & 0o777 == 0o640
    assert journal.place == str(path)


def test_a_journal_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(event(timedelta(minutes=1), "before") + b'{"time": "2026-')  # cut off by a crash
    journal = in_file(path)
    journal.note("after", "it goes on")
    journal.close()
    assert [found.event for found in journal.since("")] == ["before", "after"]
    whole = [line for line in path.read_bytes().splitlines() if line.endswith(b"}")]
    assert [exactly(line, Event).event for line in whole] == ["before", "after"]


def test_old_lines_go_and_the_file_keeps_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(
        event(timedelta(days=40))
        + b"nonsense\n"
        + event(timedelta(hours=25))
        + event(timedelta(hours=23), "new")
    )
    path.chmod(0o600)
    in_file(path).close()
    assert [found.event for found in lines(path)] == ["new"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["journal.jsonl"]


def test_a_file_without_old_lines_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(event(timedelta(hours=1)))
    inode = path.stat().st_ino
    in_file(path).close()
    assert path.stat().st_ino == inode


def test_what_is_noted_after_old_lines_went_is_in_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = in_file(path, keep_ms=DAY_MS)
    file = journal._file
    assert file is not None
    path.write_bytes(event(timedelta(days=2)))
    file._prune(time.time_ns() // 1_000_000)
    journal.note("after", "it goes on")
    journal.close()
    assert [found.event for found in lines(path)] == ["after"]


@pytest.mark.parametrize("place", ["missing/journal.jsonl", "."])
def test_a_file_that_cannot_be_written_is_an_error_at_start(tmp_path: Path, place: str) -> None:
    with pytest.raises(StartError, match=r"cannot write the journal .*name another journal\.path"):
        in_file(tmp_path / place)


def test_a_second_daemon_leaves_no_word_in_the_journal_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(event(timedelta(days=40)))
    journal = in_file(path)  # which has made a new file of it
    with pytest.raises(StartError, match="is written by another ratelimitd"):
        in_file(path)
    journal.note("after", "it goes on")
    journal.close()
    assert [found.event for found in lines(path)] == ["after"]
    in_file(path).close()


def test_a_disk_that_stalls_holds_nobody_up(tmp_path: Path) -> None:
    """The thread that writes never comes to it: as if its first write did not return."""
    file = _File(tmp_path / "journal.jsonl", DAY_MS)
    start_s = time.monotonic()
    for _ in range(5_000):
        file.append(Event(rfc3339(0), "tick", "a tick"))
    assert time.monotonic() - start_s < 1
    assert file.dropped == 4_000


def test_a_full_disk_is_counted_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "journal.jsonl"
    journal = in_file(path)
    assert journal._file is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._file._fd)
    os.close(full)
    for _ in range(3):
        journal.note("tick", "a tick")
    journal.close()
    assert journal.dropped == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"the journal {path} is not written: No space left on device"
    ]
