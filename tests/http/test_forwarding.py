"""What is said about a client to every request of its connection; the rest needs a request, and is tested
through the daemon (tests/proxy/test_forwarded_fields.py)."""

from __future__ import annotations

import msgspec
import pytest

from ratelimitd.config.model import Headers
from ratelimitd.http.forwarding import Forwarding


def forwarding(**settings: object) -> Forwarding:
    headers = msgspec.convert(settings, Headers)
    return Forwarding(headers, "x-forwarded-for", (), bytes(16))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"),
        ({"forwarded": "both"}, b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n"),
        ({"forwarded": "none"}, b""),
        ({"forwarded": "none", "via": True}, b"Via: 1.1 ratelimitd\r\n"),
    ],
)
def test_lines_of_a_peer(settings: dict[str, object], expected: bytes) -> None:
    assert forwarding(**settings).peer_lines(b"192.0.2.1", b"http") == expected
