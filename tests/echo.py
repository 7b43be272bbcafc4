"""A WSGI application that says what it was sent, as JSON: method, target, fields, size and hash of the body.

`/sleep/SECONDS` answers that much later, `/status/CODE` with that status, `/bytes/COUNT` with so many bytes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    command, _, argument = environ["PATH_INFO"].strip("/").partition("/")
    if command == "sleep":
        time.sleep(float(argument))
    status = HTTPStatus(int(argument) if command == "status" else 200)
    answer = b"x" * int(argument) if command == "bytes" else _describe(environ, body)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))]
    start_response(f"{status.value} {status.phrase}", headers)
    return [answer]


def _describe(environ: WSGIEnvironment, body: bytes) -> bytes:
    fields = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith(("HTTP_", "CONTENT_"))
    }
    query = environ.get("QUERY_STRING")
    return json.dumps(
        {
            "method": environ["REQUEST_METHOD"],
            "target": environ["PATH_INFO"] + (f"?{query}" if query else ""),
            "headers": fields,
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
    ).encode()
