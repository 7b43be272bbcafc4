"""The JSON API with real clients: every answer has its type, changes need POST and the right to make them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from ratelimitd.config.model import Admin, Journal, Limit, Rate
from ratelimitd.control import answers
from tests.control.admin_client import ask, exactly
from tests.control.daemon import Daemon, config, daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "correct-horse-battery-staple"
LIMITS = (
    Limit("per-client", per=("client",), rates=(Rate(100, 10_000_000), Rate(5, 1_000_000))),
    Limit("per-key", per=("header:x-key",), rates=(Rate(7, 60_000_000),), missing="skip"),
    Limit("everything", per=("global",), rates=(Rate(1_000, 1_000_000),)),
)
READS: dict[str, type[msgspec.Struct]] = {
    "/api/status": answers.StatusAnswer,
    "/api/limits": answers.LimitsAnswer,
    "/api/top": answers.TopAnswer,
    "/api/events": answers.EventsAnswer,
    "/api/keys": answers.KeysAnswer,
    "/api/keys/show?key=203.0.113.9": answers.KeysAnswer,
}
CHANGES: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "/api/keys/reset": ("203.0.113.9", answers.ChangedAnswer),
    "/api/keys/ban": ("203.0.113.9", answers.ChangedAnswer),
    "/api/keys/unban": ("203.0.113.9", answers.ChangedAnswer),
    "/api/reload": ("", answers.ReloadAnswer),
}


class Served:
    """A daemon with a socket, a token and a file to reload."""

    def __init__(self, server: Daemon, path: Path, file: Path) -> None:
        self.server = server
        self.socket = path
        self.file = file


GOOD = """
upstreams: {web: {servers: [http://127.0.0.1:9]}}
limits:
  - {name: per-client, per: client, rate: [100/10s, 5/s]}
  - {name: per-key, per: "header:x-key", rate: 7/min, missing: skip}
  - {name: everything, per: global, rate: 1k/s}
"""


@contextlib.contextmanager
def served(directory: Path, token: str = TOKEN) -> Iterator[Served]:
    path, file, token_file = directory / "admin.sock", directory / "r.yaml", directory / "token"
    token_file.write_text(token + "\n")
    admin = f"admin: {{bind: '127.0.0.1:1', socket: {path}, token_file: {token_file}}}\n"
    file.write_text(GOOD + (admin if token else admin.replace(f", token_file: {token_file}", "")))
    given = config(admin=Admin(host="127.0.0.1", port=0, required=True), limits=LIMITS)
    with daemon(given, path=str(file)) as started:
        started.until_admin()
        yield Served(started, path, file)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("api")) as found:
        yield found


@pytest.mark.parametrize("target", READS)
def test_every_page_answers_with_its_type(one: Served, target: str) -> None:
    for place in (one.socket, one.server.admin_port):
        status, fields, body = ask(place, "GET", target)
        assert (status, fields["content-type"]) == (200, "application/json")
        exactly(body, READS[target])
        assert ask(place, "HEAD", target)[2] == b""


@pytest.mark.parametrize("target", CHANGES)
def test_every_change_answers_with_its_type(one: Served, target: str) -> None:
    key, wanted = CHANGES[target]
    status, _, body = ask(one.socket, "POST", target, [("key", key)] if key else [])
    assert status == 200, body
    exactly(body, wanted)


def test_status_says_how_the_daemon_is(one: Served) -> None:
    one.server.ask()
    found = exactly(ask(one.socket, "GET", "/api/status")[2], answers.StatusAnswer)
    assert (found.state, found.pid, found.config) == ("serving", one.server.process.pid, str(one.file))
    assert found.listen == (one.server.address,)
    assert found.admin == (f"http://127.0.0.1:{one.server.admin_port}", f"unix:{one.socket}")
    assert (found.workers.wanted, found.workers.serving, found.workers.restarts) == (2, 2, 0)
    assert {worker.pid for worker in found.workers.each} == set(one.server.workers())
    assert [worker.worker for worker in found.workers.each] == [0, 1]
    assert {worker.state for worker in found.workers.each} == {"serving"}
    assert found.requests["forwarded"] >= 1
    assert found.table.size == 1_000_000
    assert found.journal == "memory"


def test_limits_are_told_in_the_words_of_the_file(one: Served) -> None:
    found = exactly(ask(one.socket, "GET", "/api/limits")[2], answers.LimitsAnswer)
    by_name = {limit.name: limit for limit in found.limits}
    assert list(by_name) == ["per-client", "per-key", "everything"]
    assert by_name["per-client"].rates == ("100/10s", "5/s")
    assert by_name["per-key"].per == ("header:x-key",)
    assert by_name["everything"].decisions == {"allowed": 0, "limited": 0, "observed": 0}


# --- who may do what --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [*CHANGES, "/api/drain"])
def test_changes_are_only_by_post(one: Served, target: str) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        status, fields, _ = ask(one.socket, method, target)
        assert (status, fields["allow"]) == (405, "POST")


@pytest.mark.parametrize("target", ["/api/status", "/metrics", "/healthz"])
def test_what_is_read_is_only_by_get(one: Served, target: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        status, fields, _ = ask(one.socket, method, target)
        assert (status, fields["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        "Bearer \xff",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
    ],
)
def test_over_tcp_a_change_needs_the_token(one: Served, authorization: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    for target in [*CHANGES, "/api/drain"]:
        status, fields, body = ask(one.server.admin_port, "POST", target, headers=headers)
        assert (status, fields["www-authenticate"]) == (401, 'Bearer realm="ratelimitd"')
        assert TOKEN not in exactly(body, answers.Problem).error
    assert one.server.get("/readyz")[0] == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_over_tcp_the_token_allows_a_change(one: Served, scheme: str) -> None:
    status, _, body = ask(
        one.server.admin_port,
        "POST",
        "/api/keys/reset",
        [("key", "203.0.113.9")],
        headers={"Authorization": f"{scheme} {TOKEN}"},
    )
    assert status == 200
    exactly(body, answers.ChangedAnswer)


def test_no_token_makes_another_host_ours(one: Served) -> None:
    status, _, body = ask(
        one.server.admin_port,
        "POST",
        "/api/reload",
        headers={"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"},
    )
    assert status == 421
    assert "localhost" in exactly(body, answers.Problem).error


def test_without_a_token_file_tcp_is_read_only(tmp_path: Path) -> None:
    with served(tmp_path, token="") as found:
        for authorization in ("", "Bearer", "Bearer x", f"Bearer {TOKEN}"):
            headers = {"Authorization": authorization} if authorization else {}
            for target in [*CHANGES, "/api/drain"]:
                status, _, body = ask(found.server.admin_port, "POST", target, headers=headers)
                assert (status, "Unix socket" in exactly(body, answers.Problem).error) == (403, True)
        assert ask(found.server.admin_port, "GET", "/api/status")[0] == 200
        assert ask(found.socket, "POST", "/api/reload")[0] == 200


@pytest.mark.parametrize("token", ["short", "two words, both of them long", "   "])
def test_a_token_that_is_none_is_an_error_at_start(tmp_path: Path, token: str) -> None:
    path = tmp_path / "token"
    path.write_text(token)
    with daemon(config(admin=Admin(host="127.0.0.1", port=0, token_file=str(path)))) as server:
        assert server.wait() == 1
    assert f"the admin token in {path} must be one word of at least 16 characters" in server.lines[-1]


# --- what is asked wrongly --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "status", "error"),
    [
        ("GET", "/api/nothing", 404, "there are: /api/drain"),
        ("GET", "/api/keys/show", 400, "give a key"),
        (
            "GET",
            "/api/keys/show?key=203.0.113.9&limit=nope",
            404,
            "there is no limit 'nope'; there are: per-cl",
        ),
        ("GET", "/api/keys/show?key=a&key=b", 404, "no limit counts by 'a' and 'b'"),
        ("GET", "/api/keys/show?key=a&limit=per-client", 404, "'a' is no address of a client"),
        ("GET", "/api/keys/show?key=a&limit=per-key&limit=x", 400, "the parameter limit is there 2 times"),
        ("GET", "/api/keys/show?kye=a", 400, "knows no parameter 'kye'; known are: key, limit"),
        ("GET", "/api/status?x=1", 400, "knows no parameter 'x'"),
        ("GET", "/api/events?since=soon", 400, "since is the time of an event"),
        ("GET", "/api/top?count=0", 400, "count is a number from 1 to 1000"),
        ("GET", "/api/top?count=%D9%A1", 400, "count is a number from 1 to 1000"),
        ("POST", "/api/keys/ban?key=203.0.113.9&for=10", 400, "for: '10' has no unit"),
        ("POST", "/api/reload?now=1", 400, "knows no parameter 'now'"),
    ],
)
def test_what_is_asked_wrongly(one: Served, method: str, target: str, status: int, error: str) -> None:
    found, _, body = ask(one.socket, method, target)
    assert (found, error in exactly(body, answers.Problem).error) == (status, True), body


def raw(place: Path, data: bytes) -> bytes:
    """The whole answer to bytes that no client library would send."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(place))
        with contextlib.suppress(OSError):  # the answer may come before all was sent
            connection.sendall(data)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        (FORM + b"Content-Length: 65537\r\n", b"x" * 65_537, 413),
        (FORM + b"Content-Length: 99999999999999999999\r\n", b"", 400),
        (FORM + b"Content-Length: 65536\r\n", b"key=203.0.113.9&limit=" + b"x" * (65_536 - 22), 404),
        (FORM + b"Content-Length: -1\r\n", b"", 400),
        (FORM + b"Content-Length: 3\r\nContent-Length: 4\r\n", b"abcd", 400),
        (FORM + b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n", 411),
        (b"Content-Type: application/json\r\nContent-Length: 2\r\n", b"{}", 415),
        (b"Content-Length: 15\r\n", b"key=203.0.113.9", 415),
        (FORM + b"Content-Length: 15\r\n", b"key=203.0.113.9", 200),
        (FORM + b"Content-Length: 3\r\n", b"k=\xff", 400),
        (FORM + b"Content-Length: %d\r\n" % (65 * 4), b"a=1&" * 65, 400),
    ],
)
def test_bodies(one: Served, fields: bytes, body: bytes, status: int) -> None:
    answer = raw(one.socket, b"POST /api/keys/reset HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:300]


def test_a_value_that_is_no_text_is_a_key_like_any_other(one: Served) -> None:
    status, _, body = ask(one.socket, "GET", "/api/keys/show?key=%FF%00%0Aabc&limit=per-key")
    assert status == 200
    (key,) = exactly(body, answers.KeysAnswer).keys
    assert key.key.startswith("\\xff")
    assert "\n" not in key.key


def test_a_hundred_requests_in_a_row(one: Served) -> None:
    for number in range(100):
        target = list(READS)[number % len(READS)]
        assert ask(one.socket, "GET", target)[0] == 200
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        statuses = pool.map(lambda _: ask(one.server.admin_port, "GET", "/api/status")[0], range(100))
        assert set(statuses) == {200}


# --- what changes do --------------------------------------------------------------------------------------


def test_a_reload_tells_what_changed_or_why_not(tmp_path: Path) -> None:
    with served(tmp_path) as found:
        good = found.file.read_text()
        found.file.write_text(good.replace("7/min", "9/h") + "clients: {deny: [0.0.0.0/0]}\n")
        status, _, body = ask(found.socket, "POST", "/api/reload")
        taken = exactly(body, answers.ReloadAnswer)
        assert (status, taken.result, taken.reason) == (200, "success", "")
        assert taken.changes == (
            "clients.deny none -> 0.0.0.0/0",
            "limit per-key: rate 7/min -> 9/h; window changed: counts start fresh",
        )
        assert re.fullmatch(r".*r\.yaml:\d+:\d+: warning: deny holds 0\.0\.0\.0/0.*", taken.warnings[0])
        found.file.write_text(good.replace("rate: 7/min", "rats: 7/min"))
        status, _, body = ask(found.socket, "POST", "/api/reload")
        refused = exactly(body, answers.ReloadAnswer)
        assert (status, refused.result, refused.changes) == (409, "refused", ())
        assert re.search(r"r\.yaml:5:\d+: .*rats", refused.reason)
        (limits,) = [ask(found.socket, "GET", "/api/limits")[2]]
        assert exactly(limits, answers.LimitsAnswer).limits[1].rates == ("9/h",)
        state = exactly(ask(found.socket, "GET", "/api/status")[2], answers.StatusAnswer).reloads
        assert (state.taken, state.refused, state.refusal) == (1, 1, refused.reason)


def test_reloads_at_once_are_all_answered(tmp_path: Path) -> None:
    with served(tmp_path) as found, concurrent.futures.ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda _: ask(found.socket, "POST", "/api/reload"), range(20)))
    assert {status for status, _, _ in results} == {200}


def test_events_since(tmp_path: Path) -> None:
    with served(tmp_path) as found:
        ask(found.socket, "POST", "/api/keys/ban", [("key", "203.0.113.9"), ("for", "1m")])
        events = exactly(ask(found.socket, "GET", "/api/events")[2], answers.EventsAnswer).events
        assert [event.event for event in events] == ["ready", "key_ban"]
        assert events[1].details == {"limit": "per-client", "key": "203.0.113.9"}
        ask(found.socket, "POST", "/api/reload")
        later = ask(found.socket, "GET", f"/api/events?since={events[-1].time}")[2]
        assert [event.event for event in exactly(later, answers.EventsAnswer).events] == ["reload"]
        recent = ask(found.socket, "GET", "/api/events?since=1h")[2]
        assert len(exactly(recent, answers.EventsAnswer).events) == 3
        none = ask(found.socket, "GET", "/api/events?since=9999-01-01T00:00:00Z")[2]
        assert exactly(none, answers.EventsAnswer).events == ()


def test_a_drain_ends_the_daemon(tmp_path: Path) -> None:
    with served(tmp_path) as found, found.server.connect() as busy:
        busy.recv(100)
        status, _, body = ask(found.socket, "POST", "/api/drain")
        assert (status, exactly(body, answers.DrainAnswer)) == (200, answers.DrainAnswer("draining", 30.0))
        found.server.until("draining")
        assert ask(found.socket, "GET", "/readyz")[0] == 503
        assert ask(found.socket, "POST", "/api/reload")[0] == 503
        assert ask(found.socket, "POST", "/api/drain")[0] == 200, "a second one hurries nobody"
        busy.close()
        assert found.server.wait() == 0
        assert "drained" in "".join(found.server.lines)


def test_the_life_of_a_daemon_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with daemon(config(journal=Journal(path=str(path)), workers=1)) as server:
        server.until_serving()
        (worker,) = server.workers()

        os.kill(worker, signal.SIGKILL)
        server.until("accepts connections")
        server.signal(signal.SIGHUP)
        server.until("reload refused")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    events = [exactly(line, answers.Event) for line in path.read_bytes().splitlines()]
    assert [event.event for event in events] == [
        "ready",
        "worker_replaced",
        "reload_refused",
        "drain",
        "stop",
    ]
    assert events[1].details == {"worker": 0, "pid": worker, "cause": "was killed by SIGKILL"}
    assert msgspec.json.encode(events[1]).count(b"\n") == 0
