"""Sockets that systemd opened and passed on: `bind: systemd:NAME` takes those called NAME.

The protocol of sd_listen_fds(3). systemd keeps its own copy of each, so that clients which come while the
daemon restarts wait in the queue of the socket. The sockets are listening already; what is none is refused.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_FD: Final = 3
_UNNAMED: Final = "unknown"  # sd_listen_fds_with_names(3)


class Inherited:
    """The sockets passed to this process, by name; each is taken once."""

    def __init__(self, sockets: Mapping[str, list[socket.socket]]) -> None:
        self._sockets = dict(sockets)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Inherited:
        """What `environ` says was passed to this process; nothing, when it was meant for another one."""
        count = environ.get("LISTEN_FDS", "")
        if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
            return cls({})
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        sockets: dict[str, list[socket.socket]] = {}
        for position in range(int(count)):
            fd = FIRST_FD + position
            named = names[position] if position < len(names) else ""
            os.set_inheritable(fd, False)
            sockets.setdefault(named or _UNNAMED, []).append(_listening(fd, named or _UNNAMED))
        return cls(sockets)

    def take(self, name: str) -> list[socket.socket]:
        """The sockets called `name`, at least one."""
        taken = self._sockets.pop(name, None)
        if taken is None:
            raise StartError(f"cannot listen on systemd:{name}: {self._why_none()}")
        return taken

    def give_back(self, name: str, sockets: list[socket.socket]) -> None:
        """Keep open what was taken: a later configuration may want it again."""
        self._sockets[name] = sockets

    def left(self) -> list[str]:
        """Names that nobody took: clients that connect there are never answered."""
        return sorted(self._sockets)

    def close(self) -> None:
        """Close what nobody took."""
        for sockets in self._sockets.values():
            for sock in sockets:
                sock.close()
        self._sockets.clear()

    def _why_none(self) -> str:
        if self._sockets:
            passed = ", ".join(self.left())
            return (
                f"systemd passed no socket of that name, but: {passed}; "
                "write one of these, or FileDescriptorName= into the socket unit"
            )
        return (
            "systemd passed no sockets; start the daemon by a socket unit (an example is "
            "ratelimitd.socket), or listen on host:port"
        )


def _listening(fd: int, name: str) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
        accepts = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"descriptor {fd}, passed as {name!r}, is no socket: {error.strerror}") from None
    if not accepts or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise StartError(
            f"the socket passed as {name!r} does not listen for connections; "
            "the socket unit needs ListenStream= and Accept=no"
        )
    return sock
