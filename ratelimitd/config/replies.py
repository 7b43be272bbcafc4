"""The settings of an operator's own replies: body and headers for a status that ratelimitd answers itself."""

from __future__ import annotations

from ratelimitd.config import files, kinds, model
from ratelimitd.config.reader import MapOf, Section, Setting

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_OWN_HEADERS = _HOP_BY_HOP | {"content-length", "content-type", "date"}


def _header(name: str) -> str:
    if name.lower() in _OWN_HEADERS:
        raise ValueError("is set by ratelimitd itself")
    return name


REPLY = Section(
    model.ReplyOverride,
    (
        Setting(
            "body_file",
            files.content(),
            "The body, read with the configuration.",
            field="body",
            example="/etc/ratelimitd/429.html",
        ),
        Setting("content_type", kinds.header_value(), "Its media type."),
        Setting(
            "headers",
            MapOf(
                kinds.key(kinds.text("the name of a header", kinds.TOKEN_PATTERN, _header)),
                kinds.header_value(),
                noun="a mapping of names to values",
                unique=str.lower,
            ),
            "Headers that are added.",
            example={"Access-Control-Allow-Origin": "*"},
        ),
    ),
    build=dict,
)

REPLIES = MapOf(
    kinds.key(kinds.whole(400, 599)),
    REPLY,
    lambda status, fields: model.ReplyOverride(status=status, **fields),
    "a mapping of statuses to replies",
)
