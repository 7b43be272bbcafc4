"""Where to listen, which servers to send to, which networks are meant: texts to the fields of the model.

The same readers serve the file and the command line. Each returns exact values or raises ValueError with a
sentence that continues the text; no name is resolved here.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import Any

BIND = "an address such as 0.0.0.0:8080, [::]:8080, unix:/path or systemd:NAME"
TCP_BIND = "an address such as 127.0.0.1:10429 or [::1]:10429"
SERVER = "a server such as http://127.0.0.1:9000, https://host:443 or unix:/path"
NETWORK = "an address or a network such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32"
STORE = "memory or a URL such as redis://127.0.0.1:6379/0"

BIND_PATTERN = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}|unix:/.+|systemd:[A-Za-z0-9._-]+"
TCP_BIND_PATTERN = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"
SERVER_PATTERN = r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?|unix:/.+"

LONGEST_UNIX_PATH = 107  # bytes in sockaddr_un, less the closing zero
LARGEST_PORT = 65_535

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_STORES = (
    *("redis://", "rediss://", "redis+unix:///", "redis+sentinel://", "redis+cluster://"),
    *("rediss+sentinel://", "rediss+cluster://"),
)


def bind(text: str) -> dict[str, Any]:
    """The fields of a Listener."""
    if text.startswith("unix:"):
        return {"bind": text, "unix_path": _unix_path(text.removeprefix("unix:"))}
    if text.startswith("systemd:"):
        name = text.removeprefix("systemd:")
        if re.fullmatch(r"[A-Za-z0-9._-]{1,255}", name) is None:
            raise ValueError("names no socket of systemd")
        return {"bind": text, "systemd_name": name}
    host, port = tcp_bind(text)
    return {"bind": text, "host": host, "port": port}


def tcp_bind(text: str) -> tuple[str, int]:
    """Host and port to listen on; port 0 is any free one."""
    host, colon, port = text.rpartition(":")
    if text.isdecimal():
        raise ValueError(f"has no address (did you mean 127.0.0.1:{text}, or 0.0.0.0:{text} for everybody?)")
    if not colon or "]" in port:
        raise ValueError("has no port")
    if host in ("", "*"):
        raise ValueError(f"has no address (every one is 0.0.0.0:{port} or [::]:{port})")
    return host_name(host), _port(port, least=0)


def server(text: str) -> dict[str, Any]:
    """The fields of a Server; `url` without the slash that stands for no path."""
    if text.startswith("unix:"):
        return {"url": text, "unix_path": _unix_path(text.removeprefix("unix:"))}
    scheme, mark, rest = text.partition("://")
    if not mark or scheme not in ("http", "https"):
        meant = f" (did you mean http://{text}?)" if re.fullmatch(SERVER_PATTERN, f"http://{text}") else ""
        raise ValueError(f"begins with none of http://, https:// and unix:/{meant}")
    authority, _, path = rest.partition("/")
    if path or any(character in authority for character in "?#@"):
        raise ValueError("has more than a host and a port")
    tls = scheme == "https"
    if re.search(r":[0-9]*$", authority):
        host, port = authority.rsplit(":", 1)
    else:
        host, port = authority, "443" if tls else "80"
    return {"url": text.removesuffix("/"), "host": host_name(host), "port": _port(port, least=1), "tls": tls}


def network(text: str) -> str:
    """CIDR notation in one spelling; IPv4-mapped IPv6 is IPv4."""
    if "%" in text:
        raise ValueError("is no network")
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(_why_no_network(text)) from None
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96:
        mapped = found.network_address.ipv4_mapped
        if mapped is not None:
            return f"{mapped}/{found.prefixlen - 96}"
    return str(found)


def store(text: str) -> str:
    """`memory`, or a URL as it is written, with nothing in it that is not understood."""
    if text == "memory":
        return text
    if not text.startswith(_STORES):
        raise ValueError(f"begins with none of {', '.join(_STORES)}")
    scheme, _, rest = text.partition("://")
    if scheme == "redis+unix":
        path, _, query = rest.partition("?")
        _unix_path(path)
        if query and re.fullmatch(r"db=[0-9]{1,5}", query) is None:
            raise ValueError("has a query other than db=NUMBER")
        return text
    authority, _, path = rest.partition("/")
    if "@" in path:
        raise ValueError("has an @ behind a slash: in a password a slash is written %2F, and an @ %40")
    for server in authority.rpartition("@")[2].split(","):
        _store_server(server)
    pattern, meaning = _STORE_PATHS[scheme.partition("+")[2]]
    if re.fullmatch(pattern, path) is None:
        raise ValueError(f"has {'/' + path if path else 'nothing'} behind the host, where {meaning}")
    if "," in authority and "+" not in scheme:
        raise ValueError("has several hosts (did you mean redis+sentinel:// or redis+cluster://?)")
    return text


# Behind the host, for each kind of store: what is accepted, and what that is called.
_STORE_PATHS = {
    "": (r"([0-9]{1,5})?", "the number of a database may stand"),
    "sentinel": (r"[A-Za-z0-9._-]{1,255}(/([0-9]{1,5})?)?", "/NAME of the master belongs"),
    "cluster": (r"", "nothing belongs, a cluster has one database"),
}


def without_login(url: str) -> str:
    """A store's URL for people: no user and password."""
    return re.sub(r"(?<=://)[^/]*@", "", url)


def has_password(url: str) -> bool:
    return ":" in url.partition("://")[2].partition("/")[0].rpartition("@")[0]


def store_hosts(url: str) -> tuple[str, ...]:
    """The hosts that a store's URL names; none for `memory` and a Unix socket."""
    scheme, _, rest = url.partition("://")
    if not rest or scheme == "redis+unix":
        return ()
    servers = rest.partition("/")[0].rpartition("@")[2].split(",")
    return tuple(re.sub(r":[0-9]+$", "", server).strip("[]") for server in servers)


def _store_server(text: str) -> None:
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host_name(text)
    else:
        host_name(host)
        _port(port, least=1)


def _why_no_network(text: str) -> str:
    try:
        wanted = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "is no network"
    return f"has bits set behind its prefix (the network is {wanted})"


def _unix_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("has no absolute path of a socket")
    if len(path.encode()) > LONGEST_UNIX_PATH:
        raise ValueError(f"has a path longer than {LONGEST_UNIX_PATH} bytes, a Unix socket's most")
    return path


@functools.lru_cache(maxsize=1024)
def host_name(text: str) -> str:
    """A name or an address, an IPv6 address without its brackets."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError("has no IPv6 address between the brackets") from None
    if ":" in text:
        raise ValueError("has an IPv6 address without brackets")
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise ValueError("has no valid IPv4 address") from None
    if len(text) > 253 or _HOST.fullmatch(text) is None:
        raise ValueError("has no valid host")
    return text


def _port(text: str, least: int) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) is None or not least <= int(text) <= LARGEST_PORT:
        raise ValueError(f"has no port from {least} to {LARGEST_PORT}")
    return int(text)
