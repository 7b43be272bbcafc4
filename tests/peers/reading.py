"""A WSGI application that says in X-Read, as hex of JSON, what gunicorn has read: method, target, body."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    read = json.dumps([environ["REQUEST_METHOD"], environ["RAW_URI"], body.hex()])
    start_response("200 OK", [("X-Read", read.encode().hex()), ("Content-Length", "0")])
    return []
