"""A web server as an ASGI application, for uvicorn: a GET gets 100,000 bytes, of /chunked without their
length; what is uploaded is described: method, target, size and hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

CONTENT: Final = bytes(n * n % 251 for n in range(100_000))


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        event = await receive()
        part, more = event.get("body", b""), event.get("more_body", False)
        digest.update(part)
        size += len(part)
    method, path = scope["method"], scope["path"]
    told = {"method": method, "target": path, "size": size, "sha256": digest.hexdigest()}
    body = CONTENT if method in ("GET", "HEAD") else json.dumps(told).encode()
    headers = [] if path == "/chunked" else [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body[:1000], "more_body": True})
    await send({"type": "http.response.body", "body": body[1000:]})
