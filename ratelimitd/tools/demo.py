"""`ratelimitd demo`: a sample web server with ratelimitd before it, and what to try on it.

Everything is on the loopback address and in memory. The web server is a process of its own that ends with
this one; ratelimitd is what `ratelimitd run` starts, with two workers and 20 requests in 10 seconds for each
client. Ports that are taken are replaced by free ones, and the text names those that are used.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from ratelimitd.config import flags, load, model
from ratelimitd.control import supervisor
from ratelimitd.errors import StartError

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 8_080
ADMIN_PORT: Final = 10_429
LIMIT: Final = "20/10s"
READY_WITHIN_S: Final = 30.0

TEXT: Final = """
  A sample web server is running, with ratelimitd before it: {limit} for each client.

  Try, in another terminal:

    curl -i http://{address}/
        200 from the web server; RateLimit says how many requests are left, and for how long

    for i in $(seq 30); do curl -s -o /dev/null -w '%{{http_code}}\\n' http://{address}/; done
        200 until 20 were answered in 10 seconds, then 429: the web server never sees those

    curl -i http://{address}/
        429 with Retry-After: the seconds after which this client may come again

    curl -s http://{admin}/metrics | grep -E 'requests_total|decisions_total'
        how many requests were forwarded and limited, as Prometheus reads it

    curl -i http://{admin}/readyz
        what a load balancer asks before it sends traffic

  Ctrl-C ends both: no new connections, and what is under way is finished first. Then, before a web server
  of your own (here on port 9000), without any configuration file:

    {program} run --upstream http://127.0.0.1:9000 --limit {limit}
"""


def main() -> int:
    """Serves until a signal ends it; the exit code is that of `ratelimitd run`."""
    with sample_server() as upstream:
        address = f"{LOOPBACK}:{free_port(PORT)}"
        admin = f"{LOOPBACK}:{free_port(ADMIN_PORT)}"
        threading.Thread(target=_announce, args=(address, admin), daemon=True).start()
        return supervisor.run(_config(address, admin, upstream), None)


def _config(address: str, admin: str, upstream: str) -> model.Config:
    host, _, port = admin.rpartition(":")
    config = load.from_flags(
        flags.Flags(
            listen=flags.listen(address),
            servers=(flags.upstream(upstream),),
            rates=(flags.limit(LIMIT),),
            workers=2,
            admin=(host, int(port)),
        )
    )
    # As many connections as any shell's limit of open files allows.
    few = msgspec.structs.replace(config.bounds, connections=400)
    return msgspec.structs.replace(config, bounds=few, log=model.Log(access="none"))


@contextmanager
def sample_server() -> Iterator[str]:
    """The URL of a sample web server that lives as long as the context."""
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "ratelimitd.tools.sample_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,  # Ctrl-C is for ratelimitd, which still needs the server while it drains
    )
    assert server.stdin is not None
    assert server.stdout is not None
    with server:
        port = server.stdout.readline()
        if not port:
            raise StartError("the sample web server of the demo did not start; its error is above")
        yield f"http://{LOOPBACK}:{int(port)}"
        server.stdin.close()


def free_port(wanted: int) -> int:
    """`wanted`, or any free port when somebody listens there."""
    for port in (wanted, 0):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StartError(f"no port is free on {LOOPBACK}")


def _announce(address: str, admin: str) -> None:
    """Prints what to try, once the daemon is ready; says nothing when it never is."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline:
        if is_ready(admin):
            text = TEXT.format(address=address, admin=admin, limit=LIMIT, program=program())
            print(text, flush=True)
            return
        time.sleep(0.05)


def is_ready(admin: str) -> bool:
    """Whether the daemon with this admin address serves."""
    try:
        with closing(http.client.HTTPConnection(admin, timeout=1)) as connection:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.client.OK
    except OSError:
        return False


def program() -> str:
    """How the operator calls this program."""
    if shutil.which("ratelimitd"):
        return "ratelimitd"
    script = Path(sys.executable).with_name("ratelimitd")
    return os.path.relpath(script) if script.exists() else "python3 -m ratelimitd"
