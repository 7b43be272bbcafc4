"""The verbs that talk to a daemon, as an operator types them, with the real daemon."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import StartDaemon
from tests.servers import LOOPBACK, Nginx, free_port, wait_until

if TYPE_CHECKING:
    from tests.daemon import Daemon

FILE = """
upstreams: {{web: {{servers: [{url}]}}}}
limits:
  - {{name: per-client, per: client, rate: 3/10m}}
  - {{name: per-key, per: "header:X-Key", rate: 2/10m, missing: skip}}
admin: {{bind: "127.0.0.1:1", socket: {socket}, token_file: {token}}}
log: {{access: none}}
"""
TOKEN = "correct-horse-battery-staple"


class Site:
    """A daemon with its file and its socket, and an operator's shell beside it."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.daemon = daemon
        self.file = directory / "r.yaml"
        self.socket = directory / "admin.sock"
        self.token = directory / "token"

    def says(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code and both outputs of a verb that finds the daemon by its socket."""
        return ratelimitd(*arguments, "--socket", str(self.socket))

    def get(self, **headers: str) -> int:
        connection = http.client.HTTPConnection(LOOPBACK, self.daemon.port, timeout=10)
        connection.request("GET", "/", headers=headers)
        status = connection.getresponse().status
        connection.close()
        return status


def ratelimitd(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "ratelimitd", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def site(start_daemon: StartDaemon, nginx: Nginx, tmp_path: Path) -> Site:
    path, token = tmp_path / "admin.sock", tmp_path / "token"
    token.write_text(TOKEN)
    (tmp_path / "r.yaml").write_text(FILE.format(url=nginx.url, socket=path, token=token))
    return Site(start_daemon("-c", str(tmp_path / "r.yaml"), workers=2), tmp_path)


def test_keys_of_a_client_that_is_refused(site: Site) -> None:
    assert site.says("keys", "list") == (0, "no key was refused of late, and none is banned\n", "")
    assert [site.get() for _ in range(5)] == [200, 200, 200, 429, 429]

    def listed() -> bool:  # each worker tells once a second
        heading, *rows = site.says("keys", "list")[1].splitlines()
        return [row.split()[:3] for row in rows] == [["per-client", LOOPBACK, "2"]] and heading.split() == [
            *("LIMIT", "KEY", "REFUSED", "STATE")
        ]

    wait_until(listed, "both refusals are listed")
    code, out, _ = site.says("keys", "show", LOOPBACK)
    assert code == 0
    assert re.search(r"3 used of 3/10m, room in (10|9)m", out), out
    assert site.says("keys", "reset", LOOPBACK) == (0, f"per-client: {LOOPBACK} was reset\n", "")
    assert site.get() == 200
    assert site.says("keys", "reset", "203.0.113.9")[1].endswith("(nothing was counted for it)\n")


def test_a_ban_and_its_end(site: Site) -> None:
    assert site.says("keys", "ban", LOOPBACK, "--for", "1h") == (0, f"per-client: {LOOPBACK} is banned\n", "")
    assert site.get() in {403, 429}
    code, out, _ = site.says("keys", "list")
    assert (code, "banned for 59m" in out) == (0, True)
    assert site.says("keys", "unban", LOOPBACK) == (0, f"per-client: {LOOPBACK} is not banned any more\n", "")
    assert site.get() == 200
    code, _, err = site.says("keys", "ban", LOOPBACK, "--for", "soon")
    assert (code, err.startswith("ratelimitd: for: 'soon' is no duration")) == (1, True)


def test_a_ban_by_the_limit_itself_is_lifted_whole(site: Site) -> None:
    """Without the refusals that led to it: the next refusal must not ban at once."""
    site.file.write_text(
        site.file.read_text().replace("rate: 3/10m", "rate: 3/10m, ban: {after: 2, within: 1h, for: 1h}")
    )
    assert site.says("reload")[0] == 0
    assert [site.get() for _ in range(7)] == [200, 200, 200, 429, 429, 403, 403]
    assert site.says("keys", "unban", LOOPBACK)[0] == 0
    assert [site.get() for _ in range(3)] == [429, 429, 403]
    assert site.says("keys", "reset", LOOPBACK)[0] == 0
    assert [site.get() for _ in range(6)] == [200, 200, 200, 429, 429, 403]


def test_a_key_that_is_a_secret_is_named_by_what_is_shown(site: Site) -> None:
    secret = "hunter2-and-more"
    assert [site.get(**{"X-Key": secret}) for _ in range(3)] == [200, 200, 429]

    def listed() -> list[dict[str, str]]:
        out = site.says("keys", "list", "--json")[1]
        assert secret not in out
        found: list[dict[str, str]] = json.loads(out)["keys"]
        return found

    (key,) = wait_until(listed, "the key is listed")
    assert key["limit"] == "per-key"
    assert key["key"].startswith("hunt\N{HORIZONTAL ELLIPSIS}#")
    assert site.says("keys", "reset", key["key"])[0] == 0
    assert site.get(**{"X-Key": secret}) == 200
    assert site.says("keys", "show", secret, "--limit", "per-key")[1].count("1 used of 2/10m") == 1


def test_keys_by_names_that_are_none(site: Site) -> None:
    code, _, err = site.says("keys", "show", "x", "--limit", "nope")
    assert (code, err) == (1, "ratelimitd: there is no limit 'nope'; there are: per-client, per-key\n")
    assert site.says("keys", "show", "x", "--limit", "per-client")[0] == 1


def test_status(site: Site) -> None:
    site.get()
    code, out, err = site.says("status")
    assert (code, err) == (0, "")
    assert out.startswith("ratelimitd ")
    assert f"pid {site.daemon.pid}" in out
    assert "2 of 2 serve, 0 replaced so far" in out
    assert "1 forwarded" in out
    assert json.loads(site.says("status", "--json")[1])["requests"]["forwarded"] == 1


def test_a_reload_tells_what_changed_or_why_it_was_refused(site: Site) -> None:
    assert site.says("reload") == (0, "reloaded, and nothing changed\n", "")
    good = site.file.read_text()
    site.file.write_text(good.replace("3/10m", "4/10m"))
    assert site.says("reload") == (
        0,
        "reloaded\n  limit per-client: rate 3/10m -> 4/10m; what was counted stays\n",
        "",
    )
    assert [site.get() for _ in range(5)] == [200, 200, 200, 200, 429]
    site.file.write_text(good.replace("rate: 3/10m", "rats: 3/10m"))
    code, out, _ = site.says("reload")
    assert code == 1
    assert out.startswith(f"the reload was refused, the old configuration stays: {site.file}:4:")
    site.file.write_text(good.replace("bind: ", "bind: ") + "store_options: {entries: 2M}\n")
    code, out, _ = site.says("reload", "--json")
    assert (code, json.loads(out)["result"]) == (1, "refused")
    assert "needs a restart" in json.loads(out)["reason"]


def test_the_ways_to_find_the_daemon(site: Site) -> None:
    url = f"http://{LOOPBACK}:{site.daemon.admin_port}"
    assert ratelimitd("status", "-c", str(site.file))[0] == 0
    assert ratelimitd("status", "--admin", url)[0] == 0
    assert ratelimitd("status", "--admin", f"unix:{site.socket}")[0] == 0
    code, _, err = ratelimitd("reload", "--admin", url)
    assert (code, "needs `Authorization: Bearer TOKEN`" in err) == (1, True)
    assert ratelimitd("reload", "--admin", url, "--token-file", str(site.token))[0] == 0
    assert ratelimitd("reload", "-c", str(site.file))[0] == 0
    site.file.write_text(site.file.read_text() + "limts: []\n")
    code, out, _ = ratelimitd("status", "-c", str(site.file))
    assert (code, f"configuration  {site.file}" in out) == (0, True), (
        "a mistake elsewhere is none of its business"
    )
    site.file.write_text("admin: [\n")
    assert ratelimitd("status", "-c", str(site.file))[0] == 1
    assert ratelimitd("status", "--admin", "https://a:1")[0] == 2
    assert ratelimitd("status", "--socket", "a", "--admin", url)[0] == 2
    assert ratelimitd("reload", "--admin", url, "--token-file", "/nonexistent")[0] == 1


def test_a_drain(site: Site) -> None:
    code, out, _ = site.says("drain")
    assert (code, out) == (0, "draining: no new connections, up to 30 s for what is under way\n")
    assert site.daemon.wait() == 0
    for verb in (("status",), ("reload",), ("drain",), ("keys", "list"), ("keys", "reset", "a")):
        code, out, err = site.says(*verb)
        assert (code, out) == (3, "")
        assert err.startswith(f"ratelimitd: no daemon answers at {site.socket} (No such file or directory)")


def test_something_else_that_answers_is_no_daemon(nginx: Nginx) -> None:
    code, _, err = ratelimitd("status", "--admin", nginx.url)
    assert (code, "is no ratelimitd of this version" in err) == (3, True)
    assert ratelimitd("status", "--admin", f"{LOOPBACK}:{free_port()}")[0] == 3
