"""Reads one request of the admin server: a head, and a small body of parameters.

Parameters come with the query or, so that values which are secrets stand in no address, as the body of a
form. What is no request, or more than is read here, is `Refused` with the status to answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import httptools

from ratelimitd.errors import RatelimitdError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD: Final = 16 * 1024
MAX_BODY: Final = 64 * 1024
_READ_S: Final = 5
_MAX_PARAMETERS: Final = 64
FORM: Final = "application/x-www-form-urlencoded"


class Refused(RatelimitdError):
    """The request cannot be served; `message` is for who sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclasses.dataclass(frozen=True)
class Request:
    """Names of headers are in lower case; values of one that came twice are joined by a comma."""

    method: str
    path: str
    headers: Mapping[str, str]
    parameters: Mapping[str, tuple[str, ...]]
    foreign_body: bool = False  # a body that is no form, and was not looked at

    def allow(self, *names: str) -> None:
        """Refuses parameters of other names: what is misspelt must not pass for left out."""
        for name in self.parameters:
            if name not in names:
                known = f"known are: {', '.join(names)}" if names else "there are none"
                raise Refused(400, f"{self.path} knows no parameter {name!r}; {known}")

    def one(self, name: str) -> str | None:
        """The value of a parameter that may be left out and may not be repeated."""
        values = self.parameters.get(name, ())
        if len(values) > 1:
            raise Refused(400, f"the parameter {name} is there {len(values)} times")
        return values[0] if values else None


async def read(reader: asyncio.StreamReader) -> Request | None:
    """The request, or None when nobody spoke."""
    try:
        async with asyncio.timeout(_READ_S):
            head = await reader.readuntil(b"\r\n\r\n")
            collected, parser = _parse(head)
            body = await reader.readexactly(_body_length(collected.headers))
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise Refused(431, f"the head has more than {MAX_HEAD} bytes") from None
    except TimeoutError:
        raise Refused(408, f"no request within {_READ_S} s") from None
    try:
        target = httptools.parse_url(collected.target)
        path = (target.path or b"/").decode("ascii")
        is_form = _is_form(collected.headers)
        parameters = _parameters(target.query or b"") | _parameters(body if is_form else b"")
    except (httptools.HttpParserError, ValueError):
        raise Refused(400, "not a request of HTTP/1.1") from None
    return Request(
        parser.get_method().decode(), path, collected.headers, parameters, bool(body) and not is_form
    )


class _Head:
    """What httptools calls back with."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("ascii").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text


def _parse(head: bytes) -> tuple[_Head, httptools.HttpRequestParser]:
    collected = _Head()
    parser = httptools.HttpRequestParser(collected)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, UnicodeError):
        raise Refused(400, "not a request of HTTP/1.1") from None
    return collected, parser


def _body_length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise Refused(411, "send the body with Content-Length")
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise Refused(400, "not a request of HTTP/1.1")
    if len(text) > len(str(MAX_BODY)) or int(text) > MAX_BODY:
        raise Refused(413, f"the body has more than {MAX_BODY} bytes")
    return int(text)


def _is_form(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == FORM


def _parameters(text: bytes) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    pairs = parse_qsl(
        text.decode("ascii"),
        keep_blank_values=True,
        errors="surrogateescape",
        max_num_fields=_MAX_PARAMETERS,
    )
    for name, value in pairs:
        found[name] = (*found.get(name, ()), value)
    return found


def host_name(host: str) -> str:
    """The name or address in a Host field: without port and brackets, lower case."""
    name = host.lower().strip()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name
