"""`explain` says what the daemon does: as a table, and beside the real daemon."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

import pytest

from ratelimitd import cli
from ratelimitd.config import load
from ratelimitd.config.model import Config
from ratelimitd.control import answers
from ratelimitd.tools.explain import BadQuestion, Explained, LimitPart, Question, explain
from tests.conftest import StartDaemon
from tests.control.admin_client import ask, exactly
from tests.servers import LOOPBACK, Nginx

FILE = """
upstreams: {{web: {{servers: [{url}]}}, api: {{servers: [{url}]}}}}
routes:
  - {{match: {{path: /api/*, method: [GET, POST]}}, upstream: api, priority: high}}
  - {{match: {{host: "*.example"}}, upstream: web, priority: sheddable}}
  - {{match: {{path: /gold, header: {{X-Plan: gold*}}}}, upstream: web, priority: critical}}
  - {{match: {{path: ["/", /login, /pay]}}, upstream: web}}
clients:
  trusted_proxies: [127.0.0.2/32]
  allow: [192.0.2.7]
  deny: [198.51.100.0/24]
limits:
  - {{name: per-client, per: client, rate: [900/10s, 10k/h], overrides: {{203.0.113.5: 7k/10s}}}}
  - {{name: login, per: client, rate: 900/min, match: {{path: /login}}}}
  - {{name: keyed, per: "header:X-Key", rate: 900/min}}
  - {{name: skipped, per: "header:X-Skip", rate: 900/min, missing: skip}}
  - {{name: insists, per: "header:X-Must", rate: 900/min, missing: deny, match: {{path: /pay}}}}
  - {{name: session, per: "cookie:sid", rate: 900/min, missing: skip}}
  - {{name: token, per: "query:token", rate: 900/min, missing: skip}}
  - {{name: pair, per: [client, path], rate: 900/min, action: observe}}
  - {{name: posts, per: method, rate: 900/min, match: {{method: POST}}, cost: 3}}
  - {{name: site, per: host, rate: 900/min, match: {{header: {{X-Plan: gold}}}}}}
  - {{name: costly, per: client, rate: 90k/min, cost: {{header: X-Cost, max: 50}}}}
  - {{name: all, per: global, rate: 10k/min}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("explain") / "r.yaml"
    path.write_text(FILE.format(url="http://127.0.0.1:9"))
    return load.load_file(str(path)).config


def limits(explained: Explained) -> dict[str, LimitPart]:
    return {limit.name: limit for limit in explained.limits}


EVERYBODY = {"per-client", "keyed", "pair", "costly", "all"}


@pytest.mark.parametrize(
    ("question", "status", "route", "more"),
    [
        (Question("GET /"), 0, 4, set()),
        (Question("GET /api/x"), 0, 1, set()),
        (Question("DELETE /api/x"), 404, 0, None),
        (Question("POST /api"), 0, 1, {"posts"}),
        (Question("GET /nothing"), 404, 0, None),
        (Question("GET /nothing", fields=("Host: a.example",)), 0, 2, set()),
        (Question("GET http://A.Example:8080/nothing"), 0, 2, set()),
        (Question("GET /gold", fields=("X-Plan: golden",)), 0, 3, set()),
        (Question("GET /login"), 0, 4, {"login"}),
        (Question("GET //login?x=1"), 0, 4, {"login"}),
        (Question("GET /%6cogin"), 0, 4, {"login"}),
        (Question("GET /LOGIN/", fields=("Host: a.example",)), 0, 2, {"login"}),
        (Question("GET /", fields=("x-skip: v",)), 0, 4, {"skipped"}),
        (Question("GET /", fields=("X-Skip:",)), 0, 4, set()),
        (Question("GET /", fields=("Cookie: a=b; sid=1",)), 0, 4, {"session"}),
        (Question("GET /?token=abc"), 0, 4, {"token"}),
        (Question("GET /", fields=("X-Plan: gold",)), 0, 4, {"site"}),
        (Question("GET /pay", fields=("X-Must: v",)), 0, 4, {"insists"}),
        (Question("GET /pay"), 403, 4, None),
        (Question("GET /", fields=("X-Key: a", "X-Key: b")), 400, 4, None),
        (Question("GET /?token=a&token=b"), 400, 4, None),
        (Question("GET /", "192.0.2.7"), 0, 4, None),
        (Question("GET /", "198.51.100.9"), 403, 0, None),
        (Question("GET /", "127.0.0.2", ("X-Forwarded-For: 198.51.100.9",)), 403, 0, None),
        (Question("GET /", "127.0.0.3", ("X-Forwarded-For: 198.51.100.9",)), 0, 4, set()),
        (Question("GET /%00"), 400, 0, None),
        (Question("GET /../x"), 400, 0, None),
        (Question("GET /#x"), 400, 0, None),
        (Question("GET /", fields=("Host: a", "Host: b")), 400, 0, None),
        (Question("GET /" + "x" * 9_000), 414, 0, None),
        (Question("GET /", fields=("X: " + "x" * 40_000,)), 431, 0, None),
        (Question("CONNECT a:1"), 405, 0, None),
        (Question("BREW /"), 501, 0, None),
    ],
)
def test_table(config: Config, question: Question, status: int, route: int, more: set[str] | None) -> None:
    found = explain(config, question)
    assert found.status == status, found.outcome
    assert (found.route.number if found.route else 0) == route
    if more is not None:
        assert {name for name, limit in limits(found).items() if limit.applies} == EVERYBODY | more


def test_who_the_client_is_and_why(config: Config) -> None:
    forwarded = ("X-Forwarded-For: 203.0.113.5, 127.0.0.2",)
    proxied = explain(config, Question("GET /", "127.0.0.2", forwarded)).client
    assert proxied is not None
    assert proxied.address == "203.0.113.5"
    assert proxied.why == "from x-forwarded-for, believed because 127.0.0.2 is a trusted proxy"
    forged = explain(config, Question("GET /", "203.0.113.9", forwarded)).client
    assert forged is not None
    assert forged.address == "203.0.113.9"
    assert forged.why.endswith("x-forwarded-for is not believed, 203.0.113.9 is no trusted proxy")


def test_what_a_limit_counts_and_why(config: Config) -> None:
    question = Question("POST /login?a", "203.0.113.5", ("X-Key: hunter2-and-more", "X-Plan: gold"))
    found = limits(explain(config, question))
    assert (found["per-client"].rates, found["per-client"].override) == (("7k/10s",), True)
    assert found["keyed"].key == "hunt\N{HORIZONTAL ELLIPSIS}"
    assert found["pair"].key == "203.0.113.5 /login"
    assert (found["posts"].cost, found["posts"].key) == (3, "POST")
    assert found["site"].key == "localhost"
    assert found["skipped"].why == "header:x-skip is missing, and missing is skip"
    assert found["insists"].why == "path is /login, not /pay"
    stands_in = limits(explain(config, Question("GET /", "203.0.113.5")))["keyed"]
    assert (stands_in.key, stands_in.rates, stands_in.override) == ("203.0.113.5", ("900/min",), False)
    assert stands_in.why.endswith("header:x-key is missing: the client stands in")


@pytest.mark.parametrize(
    "question",
    [
        Question("GET"),
        Question(""),
        Question("GET / /"),
        Question("GET  /"),
        Question("GET /", fields=("no-colon",)),
        Question("GET /", fields=("X: a\r\nY: b",)),
    ],
)
def test_what_is_no_request(config: Config, question: Question) -> None:
    with pytest.raises(BadQuestion, match="is no "):
        explain(config, question)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(FILE.format(url="http://127.0.0.1:9"))
    arguments = ["explain", "-c", str(path), "GET /login", "--client", "203.0.113.9", "-H", "X-Key: hunter2"]
    assert cli.main(arguments) == 0
    text = capsys.readouterr().out
    assert "client" in text
    assert "203.0.113.9: the connection's address" in text
    assert "900/10s and 10k/h for the key 203.0.113.9" in text
    assert "hunter2" not in text
    assert cli.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["route"]["number"] == 4
    assert cli.main(["explain", "-c", str(path), "GET"]) == 1
    assert "'GET' is no request" in capsys.readouterr().err
    path.write_text("limits: 3\n")
    assert cli.main(arguments) == 1
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "--client", "me"])
    assert caught.value.code == 2


# --- beside the daemon ------------------------------------------------------------------------------------

ASKED = [
    Question("GET /"),
    Question("GET /api/x", fields=("X-Key: one",)),
    Question("POST /api", fields=("Content-Length: 0",)),
    Question("GET /login"),
    Question("GET //%6cogin?x=1", fields=("X-Skip: v",)),
    Question("GET /LOGIN;a/", fields=("Host: a.example",)),
    Question("GET http://b.example/x?token=abc", fields=("X-Plan: gold", "Host: b.example")),
    Question("GET /", fields=("Cookie: a=b; sid=1",)),
    Question("GET /", fields=("Cookie: sid=1", "Cookie: sid=2")),
    Question("GET /pay"),
    Question("GET /pay", fields=("X-Must: v", "X-Plan: gold")),
    Question("GET /nothing"),
    Question("GET /%00"),
    Question("GET /", fields=("X-Key: a", "X-Key: b")),
    Question("BREW /"),
    Question("GET /", "127.0.0.2", ("X-Forwarded-For: 203.0.113.5",)),
    Question("GET /", "127.0.0.2", ("X-Forwarded-For: 198.51.100.9",)),
    Question("GET /", "127.0.0.2", ("X-Forwarded-For: 192.0.2.7",)),
    Question("GET /", "127.0.0.3", ("X-Forwarded-For: 203.0.113.5",)),
    Question("GET /", "127.0.0.2", ("X-Cost: 7",)),
    Question("GET /", "127.0.0.2", ("X-Cost: 5000",)),
    Question("GET /", "127.0.0.2", ("X-Cost: seven",)),
    Question("GET /", "127.0.0.2", ("X-Cost: 0",)),
    Question("GET /", "127.0.0.3", ("X-Cost: 7",)),
]


def status_of(port: int, question: Question) -> int:
    """What a client is answered that sends what the question is about."""
    fields = [*question.fields, "Connection: close"]
    if not any(field.lower().startswith("host:") for field in fields):
        fields.append("Host: localhost")
    with contextlib.closing(socket.socket()) as connection:
        connection.settimeout(10)
        connection.bind((question.peer, 0))
        connection.connect((LOOPBACK, port))
        connection.sendall("\r\n".join([f"{question.line} HTTP/1.1", *fields, "", ""]).encode())
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
    return int(answer.split(b" ", 2)[1])


def decided(admin_port: int) -> dict[str, int]:
    """How many decisions each limit has taken."""
    found = exactly(ask(admin_port, "GET", "/api/limits")[2], answers.LimitsAnswer)
    return {limit.name: sum(limit.decisions.values()) for limit in found.limits}


def used(admin_port: int, limit: LimitPart) -> int:
    """What the daemon has counted for the key that was explained."""
    query = "&".join(f"key={part.replace('/', '%2F')}" for part in limit.key.split(" "))
    status, _, body = ask(admin_port, "GET", f"/api/keys/show?limit={limit.name}&{query}")
    assert status == 200, body
    found = exactly(body, answers.KeysAnswer).keys
    assert {tuple(window.rate for window in key.windows) for key in found} >= {limit.rates}
    return max(key.windows[0].used for key in found)


def test_the_daemon_does_what_is_explained(start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(FILE.format(url=nginx.url))
    config = load.load_file(str(path)).config
    daemon = start_daemon("-c", str(path))
    for question in ASKED:
        explained = explain(config, question)
        applying = [limit for limit in explained.limits if limit.applies and limit.key]
        public = [limit for limit in applying if "\N{HORIZONTAL ELLIPSIS}" not in limit.key]
        before = decided(daemon.admin_port)
        used_before = {limit.name: used(daemon.admin_port, limit) for limit in public}
        assert status_of(daemon.port, question) == (explained.status or 200), question
        after = decided(daemon.admin_port)
        charged = {name for name in after if after[name] != before[name]}
        expected = set() if explained.status else {limit.name for limit in applying}
        assert charged == expected, question
        for limit in public if not explained.status else []:
            assert used(daemon.admin_port, limit) - used_before[limit.name] == limit.cost, (question, limit)
