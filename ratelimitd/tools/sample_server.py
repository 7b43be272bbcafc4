"""The web server of the demo: one page that counts its visitors, and a slow one.

`python -m ratelimitd.tools.sample_server` listens on a free port of the loopback address, prints the port as
its first line and serves until its standard input is closed: it cannot outlive whoever started it.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Final

SLOW_PATH: Final = "/slow"
SLOW_S: Final = 2.0


class Page(BaseHTTPRequestHandler):
    """Answers GET of any path."""

    protocol_version = "HTTP/1.1"
    server_version = "sample"
    sys_version = ""
    numbers: ClassVar = itertools.count(1)

    def do_GET(self) -> None:
        if self.path.startswith(SLOW_PATH):
            time.sleep(SLOW_S)
        client = self.headers.get("X-Forwarded-For", "somebody")
        body = f"Hello {client}, this is the sample web server: answer {next(self.numbers)}.\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the demo's terminal belongs to ratelimitd."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1_024

    def handle_error(self, *_: Any) -> None:
        """A client that leaves is no news."""


def main() -> None:
    with Server(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
