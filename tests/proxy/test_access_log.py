"""A line gives back what it was made of, whatever a client sends, and stays one line of printable text."""

from __future__ import annotations

import datetime as dt
import json
import mmap
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.config.model import Log
from ratelimitd.proxy.access_log import AccessLog
from ratelimitd.segment.ring import Ring
from ratelimitd.segment.series import OUTCOMES


def access_log(access: str = "json", sample: float = 1.0) -> AccessLog:
    ring = Ring(mmap.mmap(-1, 1 << 17), 0, 1 << 16)
    log = Log(access="combined" if access == "combined" else "json", sample=sample)
    return AccessLog(ring, log, 0, 12345)


JSON, COMBINED = access_log(), access_log("combined")

sent = (
    st.none()
    | st.binary(min_size=1, max_size=60)
    | st.text('ab"\\\x00\x1f\n\x7f\x80\xff', min_size=1).map(lambda text: text.encode("latin-1"))
)
own = st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
count = st.integers(0, 2**62)
entries = st.fixed_dictionaries(
    {
        "began_us": st.integers(0, 4_000_000_000_000_000),
        "decided_us": st.integers(0, 4_000_000_000_000_000),
        "duration_us": st.integers(0, 10**12),
        "bytes_in": count,
        "bytes_out": count,
        "body_out": count,
        "status": st.integers(100, 599),
        "minor": st.integers(0, 1),
        "outcome": st.sampled_from(OUTCOMES),
        "client": st.ip_addresses().map(str) | st.just("unix"),
        "method": sent,
        "target": sent,
        "limit": own,
        "upstream": own,
        "server": own,
        "request_id": sent,
        "referer": sent,
        "agent": sent,
    }
)
KEYS = [
    *("time", "decided", "client", "method", "target", "status", "outcome", "limit", "bytes_in", "bytes_out"),
    *("duration_ms", "upstream", "server", "request_id"),
]


def began(entry: dict[str, Any]) -> dt.datetime:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return epoch + dt.timedelta(milliseconds=entry["began_us"] // 1000)


def latin(text: bytes | None) -> str | None:
    return None if text is None else text.decode("latin-1")


@given(entries)
def test_json_gives_back_every_value(entry: dict[str, Any]) -> None:
    line = JSON.render(entry)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", line), "a control character"
    own_text = "".join(entry[name] or "" for name in ("limit", "upstream", "server"))
    assert line.isascii() or not own_text.isascii(), "a client's byte above 127 as it came"
    seen = json.loads(line)
    assert list(seen) == KEYS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", seen["time"])
    assert dt.datetime.fromisoformat(seen["time"]) == began(entry)
    assert seen["duration_ms"] == entry["duration_us"] / 1000
    assert seen["decided"] == entry["decided_us"]
    for name in ("client", "status", "outcome", "limit", "bytes_in", "bytes_out", "upstream", "server"):
        assert seen[name] == entry[name]
    for name in ("method", "target", "request_id"):
        assert seen[name] == latin(entry[name])


TEXT = r'"((?:[ !#-\[\]-~]|\\["\\]|\\x[0-9a-f]{2})*)"'
COMBINED_LINE = re.compile(rf"(\S+) - - \[([^]]+)\] {TEXT} (\d{{3}}) (\d+) {TEXT} {TEXT}\n")


def unescaped(text: str) -> bytes:
    plain = re.sub(r"\\(x(..)|.)", lambda found: chr(int(found[2], 16)) if found[2] else found[1], text)
    return plain.encode("latin-1")


@given(entries)
def test_combined_gives_back_every_value_it_has(entry: dict[str, Any]) -> None:
    found = COMBINED_LINE.fullmatch(COMBINED.render(entry).decode("ascii"))
    assert found
    client, time, request, status, size, referer, agent = found.groups()
    assert client == entry["client"]
    assert dt.datetime.strptime(time, "%d/%b/%Y:%H:%M:%S %z") == began(entry).replace(microsecond=0)
    asked = b"-"
    if entry["method"] and entry["target"]:
        asked = b"%b %b HTTP/1.%d" % (entry["method"], entry["target"], entry["minor"])
    assert unescaped(request) == asked
    assert (int(status), int(size)) == (entry["status"], entry["body_out"])
    assert unescaped(referer) == (entry["referer"] or b"-")
    assert unescaped(agent) == (entry["agent"] or b"-")


@pytest.mark.parametrize("log", [JSON, COMBINED])
def test_what_is_too_long_is_cut_and_the_line_stays_whole(log: AccessLog) -> None:
    texts = ("method", "target", "request_id", "referer", "agent")
    own_texts = ("limit", "upstream", "server")
    numbers = (
        "began_us",
        "decided_us",
        "duration_us",
        "bytes_in",
        "bytes_out",
        "body_out",
        "status",
        "minor",
    )
    entry: dict[str, Any] = dict.fromkeys(texts, b"\x01" * 1_000_000)
    entry |= dict.fromkeys(own_texts, "\x01" * 1_000_000) | dict.fromkeys(numbers, 1)
    line = log.render(entry | {"outcome": "forwarded", "client": "unix"})
    assert line.endswith(b"\n")
    if not log.combined:
        assert json.loads(line)["target"] == "\x01" * 65_536


@pytest.mark.parametrize("sample", [0.0, 0.25, 0.9, 1.0])
def test_about_the_share_that_was_asked_for_is_logged(sample: float) -> None:
    log = access_log(sample=sample)
    kept = sum(not log.skip() for _ in range(20_000))
    assert abs(kept - sample * 20_000) <= (0 if sample in {0, 1} else 400)
