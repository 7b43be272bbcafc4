"""From files and flags to the Config: values, includes, the environment, lists in files, warnings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimitd.config import flags, load, model
from ratelimitd.config.document import parse
from ratelimitd.config.limits import LIMIT
from ratelimitd.config.model import Match, Rate
from ratelimitd.config.reader import Context, Kind
from ratelimitd.config.sections import LISTEN
from ratelimitd.config.upstreams import UPSTREAM
from ratelimitd.errors import ConfigError
from tests.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Mapping

VALID = Path(__file__).parent.parent / "corpora" / "config" / "valid"
UPSTREAMS = 'upstreams: {web: {servers: ["http://127.0.0.1:9000"]}}\n'


def load_text(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> load.Loaded:
    path = directory / "ratelimitd.yaml"
    path.write_text(text)
    return load.load_file(str(path), environ or {})


def problems(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(directory, text, environ)
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]


NO_LIMITS = "there are no limits: every request is forwarded"


def warnings(directory: Path, text: str) -> list[str]:
    """But for the one about limits: what is tried here has none."""
    found = [str(problem).replace(f"{directory}/", "") for problem in load_text(directory, text).warnings]
    return [warning for warning in found if NO_LIMITS not in warning]


def test_what_is_left_out_has_the_defaults_of_the_model() -> None:
    server = model.Server(url="http://127.0.0.1:9000", host="127.0.0.1", port=9000)
    upstream = model.Upstream(name="web", servers=(server,))
    route = model.Route(upstream="web")
    loaded = load.load_file(str(VALID / "smallest.yaml"))
    assert loaded.config == model.Config(upstreams=(upstream,), routes=(route,))
    (warning,) = loaded.warnings
    assert NO_LIMITS in warning.message
    assert loaded.files == (str(VALID / "smallest.yaml"),)


def test_rates() -> None:
    limits = load.load_file(str(VALID / "every_spelling_of_a_rate.yaml")).config.limits
    assert [limit.rates for limit in limits] == [
        (Rate(100, 1_000_000),),
        (Rate(10, 100_000), Rate(100, 10_000_000)),
        (Rate(5, 60_000_000),),
        (Rate(10_000, 3_600_000_000),),
        (Rate(1_000_000, 86_400_000_000),),
    ]
    assert limits[3].per == ("header:x-api-key",)


def test_addresses() -> None:
    config = load.load_file(str(VALID / "every_spelling_of_an_address.yaml")).config
    *bound, from_systemd = config.listen
    assert (from_systemd.bind, from_systemd.systemd_name) == ("systemd:http", "http")
    assert [(listener.host, listener.port, listener.unix_path) for listener in bound] == [
        ("0.0.0.0", 8080, ""),
        ("::", 8081, ""),
        ("localhost", 8082, ""),
        ("", 0, "/run/ratelimitd/http.sock"),
    ]
    assert [
        (server.url, server.host, server.port, server.unix_path) for server in config.upstreams[0].servers
    ] == [
        ("http://127.0.0.1:9000", "127.0.0.1", 9000, ""),
        ("http://[::1]:9000", "::1", 9000, ""),
        ("http://web-1.internal", "web-1.internal", 80, ""),
        ("unix:/run/web/http.sock", "", 0, "/run/web/http.sock"),
        ("http://127.0.0.1:9001", "127.0.0.1", 9001, ""),
    ]
    assert config.upstreams[0].servers[4].weight == 3
    assert config.admin == model.Admin("::1", 10429, str(VALID / "admin.sock"), "", required=True)


def test_includes_are_joined_in_the_order_of_their_names() -> None:
    loaded = load.load_file(str(VALID / "included.yaml"))
    assert [limit.name for limit in loaded.config.limits] == ["first", "second", "third"]
    assert [upstream.name for upstream in loaded.config.upstreams] == ["web", "api"]
    assert (loaded.config.clients.ipv4_prefix, loaded.config.clients.ipv6_prefix) == (24, 56)
    assert loaded.config.workers == 3
    assert loaded.files == tuple(
        str(VALID / name) for name in ("included.yaml", "conf.d/10-limits.yaml", "conf.d/20-more.yaml")
    )


def test_networks_come_from_a_file_beside_the_one_that_names_it() -> None:
    assert load.load_file(str(VALID / "included.yaml")).config.clients.deny == (
        "192.0.2.7/32",
        "198.51.100.0/24",
        "2001:db8::/32",
        "203.0.113.9/32",
    )


def test_the_environment_gives_texts_and_numbers() -> None:
    environ = {"WORKERS": "2", "PORT": "8081", "EMPTY": "", "NAME": "123", "WINDOW": "10s"}
    config = load.load_file(str(VALID / "environment.yaml"), environ).config
    assert config.workers == 2
    assert config.listen[0].port == 8081
    assert config.upstreams[0].servers[0].port == 9000
    assert config.upstreams[0].keepalive == 7
    assert config.limits[0].name == "123"
    assert config.limits[0].rates == (Rate(100, 10_000_000),)


def test_the_environment_cannot_change_the_structure(tmp_path: Path) -> None:
    text = UPSTREAMS + "store: ${STORE}\n"
    found = problems(tmp_path, text, {"STORE": "memory\nworkers: 5"})
    assert len(found) == 1
    assert found[0].startswith("ratelimitd.yaml:2:8: store: 'memory\\nworkers: 5' has a control character")


def test_replies_carry_their_bodies() -> None:
    replies = load.load_file(str(VALID / "replies.yaml")).config.replies
    assert replies == (
        model.ReplyOverride(
            status=429,
            body=b"<h1>Slow down</h1>\n",
            headers=(("Access-Control-Allow-Origin", "*"), ("X-Code", "5")),
        ),
        model.ReplyOverride(status=503, content_type="text/plain"),
    )


def test_every_mistake_is_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        "workers: on\nlimits: [{name: a}, {nmae: b}]\ntimeouts: {head: 5}\nroutes: [{upstream: web}]\n"
        + UPSTREAMS
    )
    assert [problem.split(": ")[0] for problem in problems(tmp_path, text)] == [
        "ratelimitd.yaml:1:10",
        "ratelimitd.yaml:2:10",
        "ratelimitd.yaml:2:21",
        "ratelimitd.yaml:2:22",
        "ratelimitd.yaml:3:18",
    ]


@pytest.mark.parametrize(("limits", "valid"), [(16, True), (17, False)])
def test_at_most_sixteen_rates_meet(tmp_path: Path, limits: int, valid: bool) -> None:
    lines = [
        f"  - {{name: a{i}, per: client, rate: 5/s, match: {{path: /{'x/' * i}*}}}}\n" for i in range(limits)
    ]
    text = f"{UPSTREAMS}limits:\n{''.join(lines)}"
    if valid:
        assert len(load_text(tmp_path, text).config.limits) == 16
    else:
        assert problems(tmp_path, text) == [
            "ratelimitd.yaml:3:3: more than 16 rates apply to one request, the most that is counted at once: "
            + ", ".join(f"a{i}" for i in range(17))
        ]


class TestNotSupportedYet:
    """The grammar already knows what `unsupported` refuses."""

    @staticmethod
    def fields(kind: Kind, text: str) -> object:
        return kind.read(parse(text.encode(), "f").root, Context({}))

    def test_limits(self) -> None:
        text = """
            name: a
            per: [client, "header:X-Key", "cookie:Sid", "query:Q", host, path, method]
            concurrent: 5
            cost: {header: X-Cost, max: 9}
            overrides: {"198.51.100.9": 1000/10s, 5: [1/s, 2/m]}
            ban: {after: 20, within: 1m, for: 10m}
        """
        assert self.fields(LIMIT, text) == model.Limit(
            name="a",
            per=("client", "header:x-key", "cookie:Sid", "query:Q", "host", "path", "method"),
            concurrent=5,
            cost_header=model.CostHeader("x-cost", 9),
            overrides=(
                ("198.51.100.9", (Rate(1000, 10_000_000),)),
                ("5", (Rate(1, 1_000_000), Rate(2, 60_000_000))),
            ),
            ban=model.Ban(20, 60_000, 600_000),
        )

    def test_overrides_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("# key and rates\nkey one 5/s,9/m\n198.51.100.9 1000/10s\n")
        text = f'name: a\nper: client\nrate: 5/s\noverrides: "file:{tmp_path}/keys"'
        limit = self.fields(LIMIT, text)
        assert isinstance(limit, model.Limit)
        assert limit.overrides == (
            ("key one", (Rate(5, 1_000_000), Rate(9, 60_000_000))),
            ("198.51.100.9", (Rate(1000, 10_000_000),)),
        )
        (tmp_path / "keys").write_text("a 5/s\nb\nc 5\na 6/s\n")
        with pytest.raises(ConfigError) as caught:
            self.fields(LIMIT, text)
        assert [(problem.line, problem.message.split(";")[0]) for problem in caught.value.problems] == [
            (2, "'b' has no rate"),
            (3, "'5' has no window (did you mean 5/s?)"),
            (4, "duplicate key 'a'"),
        ]

    def test_upstreams(self) -> None:
        text = """
            servers: ["https://web.internal"]
            balance: client
            health: {path: /healthz}
            concurrency: adaptive
            queue: {size: 5, wait: 1s}
            retry: {attempts: 2, budget: 5%}
            slow_start: 30s
            tls: {verify: false, server_name: web}
        """
        fields = self.fields(UPSTREAM, text)
        assert isinstance(fields, dict)
        assert model.Upstream(name="web", **fields) == model.Upstream(
            name="web",
            servers=(model.Server("https://web.internal", "web.internal", 443, tls=True),),
            balance="client",
            health=model.Health("/healthz"),
            concurrency=-1,
            queue_size=5,
            queue_wait_ms=1_000,
            retry_attempts=2,
            retry_budget=0.05,
            slow_start_ms=30_000,
            tls=model.ServerTls(verify=False, server_name="web"),
        )

    def test_listeners(self, tmp_path: Path) -> None:
        pair = Authority(tmp_path).issue("a.example")
        listener = self.fields(LISTEN, f"bind: systemd:web\nproxy_protocol: true\ntls: {pair.yaml}")
        assert isinstance(listener, model.Listener)
        assert listener == model.Listener(
            bind="systemd:web", systemd_name="web", proxy_protocol=True, tls=listener.tls
        )
        assert [certificate.names for certificate in listener.tls] == [("a.example",)]


class TestWarnings:
    def test_a_proxy_header_that_nobody_may_bring(self, tmp_path: Path) -> None:
        text = UPSTREAMS + "listen:\n  - {bind: 127.0.0.1:8080, proxy_protocol: true}\n"
        (warning,) = warnings(tmp_path, text)
        assert warning.startswith("ratelimitd.yaml:3:44: clients.trusted_proxies is empty")
        assert warnings(tmp_path, text + "clients: {trusted_proxies: [unix]}\n") == []

    def test_a_key_that_clients_choose(self, tmp_path: Path) -> None:
        lone = UPSTREAMS + 'limits:\n  - {name: k, per: "header:X-Key", rate: 5/s}\n'
        (warning,) = warnings(tmp_path, lone)
        assert warning.startswith("ratelimitd.yaml:3:20: limit 'k' hangs on what the client sends")
        assert warnings(tmp_path, lone + "  - {name: c, per: client, rate: 50/s}\n") == []
        observed = "  - {name: c, per: client, rate: 50/s, action: observe}\n"
        assert len(warnings(tmp_path, lone + observed)) == 1
        elsewhere = "  - {name: c, per: client, rate: 50/s, match: {path: /login}}\n"
        assert len(warnings(tmp_path, lone + elsewhere)) == 1

    def test_trust_in_everybody(self, tmp_path: Path) -> None:
        text = UPSTREAMS + 'clients: {trusted_proxies: [10.0.0.0/8, 0.0.0.0/0], allow: ["::/0"]}\n'
        first, second = warnings(tmp_path, text)
        assert first.startswith(
            "ratelimitd.yaml:2:28: trusted_proxies holds 0.0.0.0/0: every client can name"
        )
        assert second.startswith("ratelimitd.yaml:2:60: allow holds ::/0: no client is ever limited")

    def test_a_table_that_is_too_small(self, tmp_path: Path) -> None:
        text = UPSTREAMS + "limits: [{name: a, per: client, rate: 5/s}]\nstore_options: {entries: 10k}\n"
        (warning,) = warnings(tmp_path, text)
        assert warning.startswith(
            "ratelimitd.yaml:3:26: the table holds 6000 live keys, but 20000 connections"
        )
        assert warning.endswith("Set store_options.entries to 33334 or more")
        assert warnings(tmp_path, text.replace("10k", "33334")) == []

    @pytest.mark.parametrize("host", ["0.0.0.0", "203.0.113.9", "gateway.example", "[::]"])
    def test_an_admin_address_that_others_reach(self, tmp_path: Path, host: str) -> None:
        (warning,) = warnings(tmp_path, UPSTREAMS + f'admin: {{bind: "{host}:10429"}}\n')
        assert warning.startswith("ratelimitd.yaml:2:15: the admin address ")
        assert warnings(tmp_path, UPSTREAMS + 'admin: {bind: "127.0.0.2:10429", socket: /run/s}\n') == []
        assert warnings(tmp_path, UPSTREAMS + "admin: {socket: /run/s}\n") == []

    def test_a_route_that_is_never_reached(self, tmp_path: Path) -> None:
        text = UPSTREAMS + "routes: [{upstream: web}, {match: {path: /a}, upstream: web}]\n"
        assert warnings(tmp_path, text) == [
            "ratelimitd.yaml:2:27: never reached: the route before, to 'web', takes every request"
        ]


class TestFlags:
    def test_alone(self) -> None:
        given = flags.Flags(
            listen=flags.listen("127.0.0.1:8081"),
            servers=(flags.upstream("http://127.0.0.1:9000"), flags.upstream("http://127.0.0.1:9001/")),
            rates=tuple(map(flags.limit, ("100/10s", "client=10/s", "global=10k/s", "header:X-Key=5/m"))),
            workers=flags.workers("2"),
        )
        config = load.from_flags(given)
        assert [server.port for server in config.upstreams[0].servers] == [9000, 9001]
        assert config.routes == (model.Route(upstream=config.upstreams[0].name),)
        assert [(limit.name, limit.per, len(limit.rates)) for limit in config.limits] == [
            ("per-client", ("client",), 2),
            ("global", ("global",), 1),
            ("per-x-key", ("header:x-key",), 1),
        ]
        assert (config.workers, config.listen[0].port) == (2, 8081)
        assert not config.admin.required
        assert config.journal.path == ""

    def test_override_a_file(self, tmp_path: Path) -> None:
        text = (
            UPSTREAMS
            + "limits: [{name: a, per: global, rate: 9/s}]\nroutes: [{upstream: web, priority: high}]\n"
        )
        config = load_text(tmp_path, text).config
        assert load.override(config, flags.Flags()) == config
        changed = load.override(config, flags.Flags(rates=(flags.limit("5/s"),), admin=("127.0.0.1", 1)))
        assert [limit.name for limit in changed.limits] == ["per-client"]
        assert changed.routes == config.routes
        assert changed.admin == model.Admin("127.0.0.1", 1, required=True)
        changed = load.override(config, flags.Flags(servers=(flags.upstream("http://127.0.0.1:1"),)))
        assert [upstream.servers[0].port for upstream in changed.upstreams] == [1]
        assert changed.routes == (model.Route(upstream=changed.upstreams[0].name),)

    def test_warnings_are_about_what_they_make(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        path.write_text('upstreams: {web: {servers: ["http://127.0.0.1:1", "http://127.0.0.1:2"]}}\n')

        def told(given: flags.Flags) -> list[str]:
            return [warning.message[:17] for warning in load.load_file(str(path), {}, given=given).warnings]

        rates = (flags.limit("header:x-key=5/s"),)
        assert told(flags.Flags()) == ["there are no limi", "upstream 'web' ha"]
        assert told(flags.Flags(rates=rates)) == ["upstream 'web' ha"]
        assert told(flags.Flags(rates=rates, servers=(flags.upstream("http://127.0.0.1:1"),))) == []

    def test_without_an_upstream(self) -> None:
        with pytest.raises(ConfigError, match="there is no upstream"):
            load.from_flags(flags.Flags())

    def test_two_rates_with_one_window(self) -> None:
        with pytest.raises(ValueError, match="the limit per-client has two rates with the window 1s"):
            flags.Flags(rates=(flags.limit("5/s"), flags.limit("6/1000ms")))

    def test_two_limits_of_one_name(self) -> None:
        with pytest.raises(
            ValueError, match="two limits of the name per-client: for client and for header:client"
        ):
            flags.Flags(rates=(flags.limit("5/s"), flags.limit("header:Client=6/s")))


def test_matches_are_read_whole(tmp_path: Path) -> None:
    match = {
        "host": "Shop.example",
        "path": ["/a/*", "/b"],
        "method": ["GET", "POST"],
        "header": {"X-Plan": "gold"},
    }
    text = UPSTREAMS + f"routes: {json.dumps([{'match': match, 'upstream': 'web'}])}"
    assert load_text(tmp_path, text).config.routes[0].match == Match(
        host=("Shop.example",), path=("/a/*", "/b"), method=("GET", "POST"), header=(("x-plan", "gold"),)
    )


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_load_or_are_refused(tmp_path: Path, data: bytes) -> None:
    """No file leads to another error than ConfigError."""
    path = tmp_path / "f"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        load.load_file(str(path), {})
