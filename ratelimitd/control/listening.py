"""Opens the sockets on which clients connect, one for each worker, or says why that cannot be.

Every worker has a TCP socket of its own on the same port (SO_REUSEPORT), so that the kernel spreads
connections without a lock. The supervisor keeps them open too: when a worker is replaced, connections that
wait in its socket wait for the next. A Unix socket is one, and all workers accept from it. Sockets that
systemd passed on are as many as they are (control/inherited).

A reload opens what is new first (`prepare`), and closes what is gone when every worker has let go of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ratelimitd.control.inherited import Inherited
from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from ratelimitd.config.model import Listener

logger = logging.getLogger(__name__)

BACKLOG: Final = 65_535  # the kernel cuts it to net.core.somaxconn
UNIX_MODE: Final = 0o666  # like a port of this machine


@dataclasses.dataclass(frozen=True)
class Opened:
    """The sockets of one listener, and what is done with them in the end."""

    sockets: list[socket.socket]
    close: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The listeners of a configuration that is not in force yet: all by `bind`, and those opened for it."""

    binds: tuple[str, ...]
    opened: dict[str, Opened]

    def close(self) -> None:
        """It will not come into force."""
        for opened in self.opened.values():
            opened.close()


class Listening:
    """The open sockets of all listeners. `version` counts how often the set has changed."""

    def __init__(self, workers: int, inherited: Inherited) -> None:
        self._workers = workers
        self._inherited = inherited
        self._open: dict[str, Opened] = {}
        self._leaving: list[Opened] = []
        self._left: list[str] = []
        self.version = 0

    @classmethod
    def open(
        cls, listeners: Iterable[Listener], workers: int, inherited: Inherited | None = None
    ) -> Listening:
        """Open them all, or none and raise StartError."""
        listening = cls(workers, inherited or Inherited({}))
        try:
            listening.use(listening.prepare(listeners))
        except StartError:
            listening.close()
            raise
        return listening

    def prepare(self, listeners: Iterable[Listener]) -> Prepared:
        """Open what is not open yet, all of it, or none and raise StartError."""
        wanted = {listener.bind: listener for listener in listeners}
        prepared = Prepared(tuple(wanted), {})
        try:
            for bind, listener in wanted.items():
                if bind not in self._open:
                    prepared.opened[bind] = self._opened(listener, self._ports_left_by(wanted))
        except StartError:
            prepared.close()
            raise
        return prepared

    def use(self, prepared: Prepared) -> None:
        """These are the listeners from now on. Those that are gone stay open until `close_removed`."""
        self._leaving += [opened for bind, opened in self._open.items() if bind not in prepared.binds]
        known = self._open | prepared.opened
        self._open = {bind: known[bind] for bind in prepared.binds}
        self.version += bool(prepared.opened or self._leaving)

    def close_removed(self) -> None:
        """No worker needs them any more, but for what waits in their queues, which it has seen to."""
        for opened in self._leaving:
            opened.close()
        self._leaving.clear()

    def warn_of_left(self) -> None:
        """Say which sockets of systemd no listener takes, when that has changed."""
        left = self._inherited.left()
        if left and left != self._left:
            logger.warning(
                "systemd passed sockets that no listener takes: %s; clients that connect there wait for ever "
                "(`bind: systemd:NAME` takes one)",
                ", ".join(left),
            )
        self._left = left

    def for_worker(self, index: int) -> list[tuple[str, int]]:
        """What worker `index` accepts on: the listener as it was written, and a descriptor."""
        return [
            (bind, opened.sockets[place].fileno())
            for bind, opened in self._open.items()
            for place in share(len(opened.sockets), index, self._workers)
        ]

    def addresses(self) -> list[str]:
        """Where clients reach the daemon; the port is the real one."""
        return [_address_text(opened.sockets[0]) for opened in self._open.values()]

    def close(self) -> None:
        """Close the supervisor's copies and remove the paths of Unix sockets."""
        self.close_removed()
        for opened in self._open.values():
            opened.close()
        self._open.clear()
        self._inherited.close()

    def _opened(self, listener: Listener, own_ports: set[int]) -> Opened:
        if listener.systemd_name:
            name = listener.systemd_name
            sockets = self._inherited.take(name)
            return Opened(sockets, lambda: self._inherited.give_back(name, sockets))
        if listener.unix_path:
            unix = UnixSocket(listener.unix_path, UNIX_MODE)
            return Opened([unix.socket], unix.close)
        own = listener.port in own_ports
        sockets = open_tcp(listener.host, listener.port, self._workers, is_ours=own)
        return Opened(sockets, lambda: _close(sockets))

    def _ports_left_by(self, wanted: Container[str]) -> set[int]:
        """Ports of listeners that go away: 127.0.0.1:80 may become 0.0.0.0:80."""
        names = [opened.sockets[0].getsockname() for bind, opened in self._open.items() if bind not in wanted]
        return {name[1] for name in names if isinstance(name, tuple)}


def share(sockets: int, index: int, workers: int) -> list[int]:
    """Which of the sockets of one listener worker `index` accepts on, so that none is left alone.

    Socket i belongs to worker i modulo `workers`; when there are fewer sockets they are shared.
    """
    return [place % sockets for place in range(index, max(sockets, workers), workers)]


def open_tcp(host: str, port: int, count: int, *, is_ours: bool = False) -> list[socket.socket]:
    """`count` listening sockets on one port. Port 0: a free one, the same for all. `is_ours`: sockets of our
    own that listen on that port are no reason to refuse it."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    family, address = _resolve(host, port, shown)
    opened: list[socket.socket] = []
    try:
        # SO_REUSEPORT would let a second daemon take half of the connections of the first in silence; without
        # it a port that somebody listens on is refused, and one in TIME_WAIT is not. So the first one listens
        # without it: of two daemons that start at once, only one can.
        opened.append(_tcp_socket(family, shared=is_ours))
        opened[0].bind(address)
        opened[0].listen(BACKLOG)
        opened[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        address = opened[0].getsockname()
        for _ in range(count - 1):
            opened.append(_tcp_socket(family, shared=True))
            opened[-1].bind(address)
            opened[-1].listen(BACKLOG)
    except OSError as error:
        _close(opened)
        raise StartError(f"cannot listen on {shown}: {_reason(error, port)}") from None
    return opened


def _close(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


class UnixSocket:
    """A listening Unix socket. One that nobody listens on any more is replaced, never a live one."""

    def __init__(self, path: str, mode: int) -> None:
        self.path: Final = Path(path)
        _refuse_or_remove(self.path)
        self.socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The mode must hold from the first moment: bind gives the file what the mask leaves.
        mask = os.umask(0o777 & ~mode)
        try:
            self.socket.bind(path)
            self.socket.listen(BACKLOG)
        except OSError as error:
            self.socket.close()
            raise StartError(f"cannot listen on unix:{path}: {_unix_reason(error, self.path)}") from None
        finally:
            os.umask(mask)
        self._inode = self.path.stat().st_ino

    def remove(self) -> None:
        """Remove the path, unless another daemon has taken it since."""
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def close(self) -> None:
        self.remove()
        self.socket.close()


def _resolve(host: str, port: int, shown: str) -> tuple[int, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise StartError(
            f"cannot listen on {shown}: the name {host!r} does not resolve; give an address of this machine"
        ) from None
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def _tcp_socket(family: int, *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _refuse_or_remove(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(kind):
        raise StartError(
            f"cannot listen on unix:{path}: something that is no socket is there; "
            "it was left alone: remove it or choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            _remove_stale(path)
            return
        except OSError as error:
            # EAGAIN is a live socket whose queue is full; anything else is not known to be dead.
            if error.errno != errno.EAGAIN:
                raise StartError(f"cannot listen on unix:{path}: {_unix_reason(error, path)}") from None
    raise StartError(
        f"cannot listen on unix:{path}: another program listens there; stop it or choose another path"
    )


def _remove_stale(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise StartError(f"cannot listen on unix:{path}: {_unix_reason(error, path)}") from None


def _reason(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            "the port is in use, another program listens there; stop it or choose another port "
            f"(`ss -ltnp 'sport = :{port}'` shows who it is)"
        )
    if error.errno == errno.EACCES:
        return (
            "the kernel gives ports below 1024 only to those with the right; choose a higher port, "
            "or give the service AmbientCapabilities=CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return "that is no address of this machine (`ip address` shows them); 0.0.0.0 means all of them"
    if error.errno == errno.EAFNOSUPPORT:
        return "this machine has no such kind of address (IPv6 is switched off?)"
    if error.errno == errno.EMFILE:
        return "too many open files; raise the limit (LimitNOFILE= of the service, `ulimit -n`)"
    return error.strerror or str(error)


def _unix_reason(error: OSError, path: Path) -> str:
    if error.errno == errno.ENOENT:
        return f"the directory {path.parent} does not exist; make it, or let systemd (RuntimeDirectory=)"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"this user may not write to {path.parent}; change its owner or choose another path"
    if "too long" in str(error):
        return "a path of a Unix socket has at most 107 bytes; choose a shorter one"
    return error.strerror or str(error)


def _address_text(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
