"""The proxies that are compared, each as one worker before the same origin, with limits that refuse nobody.

Every one of them keeps connections to both sides, hands on Host and X-Forwarded-For and writes no access log.
nginx is there as it comes, which reads a request's body into a file before it asks the web server, and
streaming, as the others do.
ratelimitd has a configuration as it grows in a year: besides the three limits that all have, 17 for paths
that are not asked for, and a list of denied networks.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.daemon import Daemon
from tests.servers import LOOPBACK, Process, free_port

# A browser's head: with the request line and Host, 11 fields and 669 bytes.
HEAD_SIZE: Final = 669
HEADERS: Final = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.5",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: https://shop.example/catalogue/garden/chairs?page=2",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Dest: document",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
)
DENIED: Final = 100_000
OTHER_LIMITS: Final = 17
PATH: Final = "/catalogue/garden/chairs?page=3&sort=price"


Served = tuple[Process, int]  # a program that was started, and the port on which it serves


def request_headers(port: int) -> tuple[str, ...]:
    """The fields besides Host, the last one a cookie as long as the head needs it to be."""
    known = [f"GET {PATH} HTTP/1.1", f"Host: {LOOPBACK}:{port}", *HEADERS, "Cookie: session=", ""]
    return (*HEADERS, "Cookie: session=" + "c" * (HEAD_SIZE - len("\r\n".join(known)) - 2))


class Proxy:
    """One running proxy."""

    def __init__(self, name: str, process: Process, port: int) -> None:
        self.name = name
        self.port = port
        self.process = process
        process.wait_for_port(port)
        if isinstance(process, Daemon):
            process.wait_ready()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}{PATH}"

    def pids(self) -> list[int]:
        """The process that was started and its children."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        sys.exit(f"{name} is not installed: run scripts/prepare bench")
    return found


def ratelimitd(directory: Path, origin: int, store: str = "memory", trusted: str = "") -> Served:
    """Where there is a `trusted` proxy, X-Forwarded-For tells who asks."""
    directory.mkdir()
    proxies = f', trusted_proxies: ["{trusted}"]' if trusted else ""
    denied = directory / "denied.txt"
    denied.write_text("".join(f"10.{n >> 12}.{n >> 4 & 255}.{(n & 15) << 4}/28\n" for n in range(DENIED)))
    others = "".join(
        f'  - {{name: other-{n}, per: client, rate: 10/s, match: {{path: "/other/{n}/*"}}}}\n'
        for n in range(OTHER_LIMITS)
    )
    configuration = directory / "ratelimitd.yaml"
    configuration.write_text(f"""
clients: {{deny: ["file:{denied}"]{proxies}}}
upstreams: {{origin: {{servers: ["http://{LOOPBACK}:{origin}"]}}}}
limits:
  - {{name: per-client, per: client, rate: 1000M/10s}}
  - {{name: global, per: global, rate: 1000M/10s}}
  - {{name: per-agent, per: "header:user-agent", rate: 1000M/10s}}
{others}store: {store}
log: {{access: none}}
""")
    daemon = Daemon(directory, ["-c", str(configuration)])
    return daemon, daemon.port


def nginx_with(directory: Path, origin: int, *, main: str = "", http: str = "", location: str = "") -> Served:
    """nginx with one worker before `origin`, and what it does besides."""
    port = free_port()
    directory.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    places = "".join(
        f"{name}_temp_path {directory}/{name}; "
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = directory / "nginx.conf"
    configuration.write_text(f"""
{main}
{user} daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; accept_mutex off; }}
http {{
    access_log off; keepalive_requests 1000000000; {places}
    client_max_body_size 0; {http}
    upstream origin {{ server {LOOPBACK}:{origin}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen {LOOPBACK}:{port} backlog=4096; server_name all;
        location / {{
            {location}
            proxy_pass http://origin; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
""")
    return Process(
        "nginx", [program("nginx"), "-p", str(directory), "-c", str(configuration)], directory
    ), port


def nginx(directory: Path, origin: int, buffering: str = "") -> Served:
    zones = """
    limit_req_zone $binary_remote_addr zone=client:10m rate=1000000r/s;
    limit_req_zone $server_name zone=global:1m rate=1000000r/s;
    limit_req_zone $http_user_agent zone=agent:10m rate=1000000r/s;
    limit_req_status 429;"""
    limits = """
            limit_req zone=client burst=1000000 nodelay;
            limit_req zone=global burst=1000000 nodelay;
            limit_req zone=agent burst=1000000 nodelay;"""
    return nginx_with(directory, origin, http=buffering + zones, location=limits)


def nginx_streaming(directory: Path, origin: int) -> Served:
    return nginx(directory, origin, "proxy_buffering off; proxy_request_buffering off;")


def haproxy(directory: Path, origin: int) -> Served:
    port = free_port()
    directory.mkdir()
    configuration = directory / "haproxy.cfg"
    configuration.write_text(f"""
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout client 30s
    timeout server 30s
    timeout connect 5s
    http-reuse always
    option forwardfor
frontend front
    bind {LOOPBACK}:{port} backlog 4096
    stick-table type ip size 1m expire 1m store http_req_rate(10s)
    http-request track-sc0 src
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt 1000000000 }}
    default_backend origin
backend origin
    server origin {LOOPBACK}:{origin} pool-max-conn 64
""")
    return Process("haproxy", [program("haproxy"), "-db", "-f", str(configuration)], directory), port


def relay(directory: Path, origin: int) -> Served:
    port = free_port()
    script = Path(__file__).with_name("relay.py")
    return Process("relay", [sys.executable, str(script), str(port), str(origin)], directory), port


Starter = Callable[[Path, int], Served]
STARTERS: Final[dict[str, Starter]] = {
    "ratelimitd": ratelimitd,
    "nginx": nginx,
    "nginx again": nginx,
    "nginx streaming": nginx_streaming,
    "nginx streaming again": nginx_streaming,
    "HAProxy": haproxy,
    "bare relay": relay,
}


@contextmanager
def running(
    directory: Path, origin: int, names: Sequence[str], starters: Mapping[str, Starter] = STARTERS
) -> Iterator[list[Proxy]]:
    """Those of these names, started."""
    with ExitStack() as stack:
        proxies = []
        for name in names:
            process, port = starters[name](directory / name.replace(" ", "-"), origin)
            stack.enter_context(process)
            proxies.append(Proxy(name, process, port))
        yield proxies
