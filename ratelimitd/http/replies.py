"""The replies of ratelimitd's own: every status it answers by itself, ready to be sent.

A reply is made once per cause and reused: only Date and the retry fields differ from one request to the
next. Machines get `application/problem+json` (RFC 9457), people who ask for text get text; both say what
happened and what to do. Every reply has a length and is never cached.
"""

from __future__ import annotations

import dataclasses
import http
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from ratelimitd.config.model import ReplyOverride

# IANA's registry of problem types, as the RateLimit draft enters them.
_QUOTA_EXCEEDED: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_REDUCED_CAPACITY: Final = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"

_REASONS: Final = {414: "URI Too Long", 413: "Content Too Large"}


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The constant parts of one reply: status line, fields, and body. Between status line and fields go the
    Date line and whatever the moment adds."""

    status: int
    status_line: bytes
    fields: bytes
    body: bytes

    def render(self, added: bytes, *, close: bool, head_only: bool) -> bytes:
        """The reply as it is sent. `added` are whole lines; `close` says that the connection ends with it."""
        last = b"Connection: close\r\n\r\n" if close else b"\r\n"
        return b"".join((self.status_line, added, self.fields, last, b"" if head_only else self.body))


def reason(status: int) -> str:
    """What stands behind the number; for one that nobody has registered, what such numbers mean."""
    if status in _REASONS:
        return _REASONS[status]
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Request Refused" if status < 500 else "Service Unavailable"


def problem(status: int, detail: str, *, limit: str | None = None, shed: bool = False) -> Reply:
    """A reply for programs: application/problem+json."""
    kind = "about:blank"
    if limit is not None and status == 429:
        kind = _QUOTA_EXCEEDED
    elif shed:
        kind = _REDUCED_CAPACITY
    members: dict[str, object] = {"type": kind, "title": reason(status), "status": status, "detail": detail}
    if limit is not None:
        members["limit"] = limit
    return build(status, msgspec.json.encode(members) + b"\n", "application/problem+json")


def text(status: int, detail: str) -> Reply:
    """A reply for people."""
    return build(status, f"{status} {reason(status)}: {detail}\n".encode(), "text/plain; charset=utf-8")


def override(reply: ReplyOverride) -> Reply:
    """A reply as the operator wrote it."""
    return build(reply.status, reply.body, reply.content_type, reply.headers)


def build(status: int, body: bytes, content_type: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    own = "".join(f"{name}: {value}\r\n" for name, value in headers)
    fields = (
        f"Cache-Control: no-store\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{own}"
    )
    return Reply(status, f"HTTP/1.1 {status} {reason(status)}\r\n".encode(), fields.encode("latin-1"), body)


def wants_text(accept: bytes) -> bool:
    """Whether an Accept field prefers text to JSON: it names text/html or text/plain and no JSON."""
    return (b"text/html" in accept or b"text/plain" in accept) and b"json" not in accept


class Replies:
    """All replies of one policy, each made when it is first needed."""

    def __init__(self, overrides: tuple[ReplyOverride, ...] = ()) -> None:
        self._overrides: Final = {reply.status: override(reply) for reply in overrides}
        self._made: dict[tuple[int, str, str | None, bool, bool], Reply] = {}

    def get(
        self, status: int, detail: str, *, limit: str | None = None, shed: bool = False, as_text: bool = False
    ) -> Reply:
        """The reply for one cause. `detail` and `limit` come from the program and the configuration, never
        from a client, so there are few."""
        own = self._overrides.get(status)
        if own is not None:
            return own
        key = (status, detail, limit, shed, as_text)
        made = self._made.get(key)
        if made is None:
            made = text(status, detail) if as_text else problem(status, detail, limit=limit, shed=shed)
            self._made[key] = made
        return made
