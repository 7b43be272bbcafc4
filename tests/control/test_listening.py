"""Sockets: one for each worker on one port, and never one that another program has."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.config.model import Listener
from ratelimitd.control import listening
from ratelimitd.control.inherited import Inherited
from ratelimitd.control.listening import Listening, UnixSocket, open_tcp, share
from ratelimitd.errors import StartError
from tests.servers import free_port

if TYPE_CHECKING:
    from pathlib import Path


def tcp(port: int, host: str = "127.0.0.1") -> Listener:
    return Listener(bind=f"{host}:{port}", host=host, port=port)


def inherited(name: str) -> Listener:
    return Listener(bind=f"systemd:{name}", systemd_name=name)


def port_of(listening: Listening) -> int:
    return int(listening.addresses()[0].rpartition(":")[2])


def name_of(fd: int) -> object:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.getsockname()


def test_each_worker_has_its_own_socket_on_the_same_port() -> None:
    listening = Listening.open([tcp(0), tcp(0, "localhost")], workers=3)
    descriptors = [listening.for_worker(index) for index in range(3)]
    assert [bind for bind, _ in descriptors[0]] == ["127.0.0.1:0", "localhost:0"]
    assert len({fd for pairs in descriptors for _, fd in pairs}) == 6
    for position in range(2):
        assert len({name_of(pairs[position][1]) for pairs in descriptors}) == 1
    listening.close()


def test_the_kernel_spreads_connections_over_the_sockets() -> None:
    sockets = open_tcp("127.0.0.1", 0, 2)
    clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(40)]
    taken = []
    for sock in sockets:
        sock.setblocking(False)
        taken.append(0)
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            taken[-1] += 1
    assert sum(taken) == 40
    assert min(taken) > 0
    for opened in [*clients, *sockets]:
        opened.close()


def test_a_port_of_another_set_is_refused_and_leaves_nothing_open() -> None:
    first = Listening.open([tcp(0)], workers=2)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError, match="the port is in use"):
        Listening.open([tcp(0), tcp(port_of(first))], workers=2)
    assert len(os.listdir("/proc/self/fd")) == before
    first.close()


@pytest.mark.parametrize("calls_before", range(2))
def test_of_two_that_open_a_port_at_once_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, calls_before: int
) -> None:
    """Another daemon opens it while the first is about to, after so many of its sockets."""
    port = free_port()
    make = listening._tcp_socket
    refused: list[StartError] = []
    made: list[socket.socket] = []
    by_other: list[socket.socket] = []

    def interrupted(family: int, *, shared: bool) -> socket.socket:
        if len(made) == calls_before:
            monkeypatch.setattr(listening, "_tcp_socket", make)
            open_as(by_other)
        made.append(make(family, shared=shared))
        return made[-1]

    def open_as(opened: list[socket.socket]) -> None:
        try:
            opened += open_tcp("127.0.0.1", port, 2)
        except StartError as error:
            refused.append(error)

    monkeypatch.setattr(listening, "_tcp_socket", interrupted)
    by_first: list[socket.socket] = []
    open_as(by_first)
    assert sorted((len(by_first), len(by_other))) == [0, 2]
    assert "the port is in use" in str(refused)
    for sock in by_first + by_other:
        sock.close()


def test_a_wildcard_over_a_taken_address_is_refused() -> None:
    first = Listening.open([tcp(0)], workers=1)
    with pytest.raises(StartError, match="the port is in use"):
        Listening.open([tcp(port_of(first), "0.0.0.0")], workers=1)
    first.close()


def test_ipv6_leaves_the_port_to_ipv4() -> None:
    six = Listening.open([tcp(0, "::1")], workers=1)
    assert six.addresses()[0].startswith("[::1]:")
    Listening.open([tcp(port_of(six))], workers=1).close()
    six.close()


def test_a_name_that_is_unknown_is_refused() -> None:
    with pytest.raises(StartError, match=r"the name 'no-such-host\.invalid' does not resolve"):
        open_tcp("no-such-host.invalid", 80, 1)


def test_a_socket_of_systemd_that_was_not_passed_is_refused() -> None:
    with pytest.raises(StartError, match="cannot listen on systemd:http: systemd passed no sockets"):
        Listening.open([inherited("http")], workers=1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        passed = Inherited({"api": [other], "web": [other]})
        with pytest.raises(StartError, match="no socket of that name, but: api, web"):
            Listening.open([inherited("http")], 1, passed)


def test_sockets_of_systemd_are_spread_over_the_workers() -> None:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    passed = Inherited({"http": sockets})
    listening = Listening.open([inherited("http")], 3, passed)
    assert passed.left() == []
    assert [listening.for_worker(index) for index in range(3)] == [
        [("systemd:http", sockets[place].fileno())] for place in (0, 1, 0)
    ]
    assert listening.addresses() == [f"127.0.0.1:{sockets[0].getsockname()[1]}"]
    listening.close()
    assert [sock.fileno() for sock in sockets] == [-1, -1]


@given(sockets=st.integers(1, 40), workers=st.integers(1, 40))
def test_no_socket_and_no_worker_is_left_alone(sockets: int, workers: int) -> None:
    shares = [share(sockets, index, workers) for index in range(workers)]
    assert {place for places in shares for place in places} == set(range(sockets))
    for index, places in enumerate(shares):
        assert places
        assert len(set(places)) == len(places)
        if sockets >= workers:
            assert {place % workers for place in places} == {index}
    if sockets == 1:
        assert shares == [[0]] * workers


@pytest.mark.parametrize("mode", [0o660, 0o666])
def test_mode_of_a_unix_socket(tmp_path: Path, mode: int) -> None:
    unix = UnixSocket(str(tmp_path / "s"), mode)
    assert stat.S_IMODE(unix.path.stat().st_mode) == mode
    unix.close()
    assert not unix.path.exists()


def test_a_live_unix_socket_is_left_alone(tmp_path: Path) -> None:
    unix = UnixSocket(str(tmp_path / "s"), 0o666)
    with pytest.raises(StartError, match="another program listens there"):
        UnixSocket(str(tmp_path / "s"), 0o666)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(unix.path))
    unix.close()


def test_a_live_unix_socket_with_a_full_queue_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        clients = []
        while True:
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            if clients[-1].connect_ex(str(tmp_path / "s")) == errno.EAGAIN:
                break
        with pytest.raises(StartError, match="another program listens there"):
            UnixSocket(str(tmp_path / "s"), 0o666)
        for client in clients:
            client.close()


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "s"))
    unix = UnixSocket(str(tmp_path / "s"), 0o666)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(unix.path))
    unix.close()


def test_a_path_that_another_daemon_took_since_is_not_removed(tmp_path: Path) -> None:
    first = UnixSocket(str(tmp_path / "s"), 0o666)
    first.path.unlink()
    second = UnixSocket(str(tmp_path / "s"), 0o666)
    first.close()
    assert second.path.exists()
    second.close()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(StartError, match="something that is no socket"):
        UnixSocket(str(tmp_path / "s"), 0o666)
    assert (tmp_path / "s").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "message"), [("missing/s", "the directory .*/missing does not exist"), ("s" * 120, "107 bytes")]
)
def test_paths_that_cannot_be_used(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(StartError, match=message):
        UnixSocket(str(tmp_path / name), 0o666)


# --- another set, by a reload


def is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


def test_another_set_keeps_what_stays_and_closes_what_is_gone_in_the_end() -> None:
    listening = Listening.open([tcp(0), tcp(0, "localhost")], workers=2)
    kept, gone = listening.addresses()
    before, version = dict(listening.for_worker(0)), listening.version
    listening.use(listening.prepare([tcp(0, "127.0.0.2"), tcp(0)]))
    after = dict(listening.for_worker(0))
    assert list(after) == ["127.0.0.2:0", "127.0.0.1:0"]
    assert after["127.0.0.1:0"] == before["127.0.0.1:0"]
    assert listening.version > version
    assert [is_open(address) for address in (*listening.addresses(), gone)] == [True] * 3
    listening.close_removed()
    assert (is_open(kept), is_open(gone)) == (True, False)
    version = listening.version
    listening.use(listening.prepare([tcp(0, "127.0.0.2"), tcp(0)]))
    assert listening.version == version, "nothing has changed"
    listening.close()


def test_a_set_that_cannot_be_opened_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    unix = Listener(bind=f"unix:{path}", unix_path=str(path))
    with socket.create_server(("127.0.0.1", 0)) as other:
        listening = Listening.open([tcp(0)], workers=2)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StartError, match="the port is in use"):
            listening.prepare([unix, tcp(other.getsockname()[1])])
        assert not path.exists()
        listening.prepare([unix]).close()  # refused for another reason
        assert not path.exists()
        assert len(os.listdir("/proc/self/fd")) == before
        assert is_open(listening.addresses()[0])
        listening.close()


def test_a_port_may_go_from_one_address_to_all() -> None:
    first = Listening.open([tcp(0)], workers=2)
    port = port_of(first)
    chosen = tcp(port)
    first.close()
    listening = Listening.open([chosen], workers=2)
    with pytest.raises(StartError, match="the port is in use"):
        listening.prepare([chosen, tcp(port, "0.0.0.0")])
    listening.use(listening.prepare([tcp(port, "0.0.0.0")]))
    listening.close_removed()
    assert listening.addresses() == [f"0.0.0.0:{port}"]
    assert is_open(f"127.0.0.1:{port}")
    listening.close()


def test_sockets_of_systemd_can_be_taken_up_and_given_back() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    listening = Listening.open([tcp(0)], 1, Inherited({"http": [sock]}))
    for _ in range(2):
        listening.use(listening.prepare([tcp(0), inherited("http")]))
        assert listening.for_worker(0)[1] == ("systemd:http", sock.fileno())
        listening.use(listening.prepare([tcp(0)]))
        listening.close_removed()
    listening.close()
    assert sock.fileno() == -1
