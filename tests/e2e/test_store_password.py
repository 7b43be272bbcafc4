"""The password of a store is shown nowhere: not by verbs, pages or metrics, in no log, journal or error."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conftest import StartDaemon
from tests.daemon import COMMAND, Daemon, command_line
from tests.redis_servers import Redis
from tests.servers import LOOPBACK, Nginx, wait_until

PASSWORD = "tr0ub4dor"
OTHER = "c0rrecth0rse"
FILE = """
upstreams: {{web: {{servers: ['{url}']}}}}
store: '{store}'
store_options: {{nodes: 2}}
limits: [{{name: per-client, per: client, rate: 5/min}}]
admin: {{socket: {directory}/admin.sock}}
journal: {{path: {directory}/journal.jsonl}}
log: {{access: json, destination: {directory}/access.log}}
"""
PAGES = (
    "/metrics",
    "/readyz",
    *(f"/api/{name}" for name in ("status", "limits", "top", "events", "keys", "config")),
)


class Shown:
    """All that anybody can see."""

    def __init__(self, directory: Path, nginx: Nginx) -> None:
        self.directory, self.nginx = directory, nginx
        self.file = directory / "r.yaml"
        self.texts: list[str] = []

    def write(self, store: str) -> None:
        text = FILE.format(url=self.nginx.url, store=store, directory=self.directory)
        self.file.write_text(text)

    def says(self, *arguments: str, file: bool = True) -> str:
        """What a verb says of the file, or of the daemon."""
        where = ["-c", str(self.file)] if file else ["--socket", str(self.directory / "admin.sock")]
        done = subprocess.run(
            [*COMMAND, *arguments, *where], capture_output=True, text=True, timeout=60, check=False
        )
        self.texts.append(done.stdout + done.stderr)
        return self.texts[-1]

    def look_at(self, daemon: Daemon) -> None:
        self.texts += [daemon.admin(page)[1] for page in PAGES]
        self.texts += [daemon.stderr, (self.directory / "journal.jsonl").read_text()]
        self.texts += [command_line(pid).decode() for pid in (daemon.pid, *daemon.workers())]


def test_it_is_shown_nowhere(tmp_path: Path, nginx: Nginx, start_daemon: StartDaemon) -> None:
    shown = Shown(tmp_path, nginx)
    with Redis(tmp_path / "redis", options=["--requirepass", PASSWORD]) as redis:
        where = f"{LOOPBACK}:{redis.port}"
        shown.write(f"redis://default:{PASSWORD}@{where}")
        daemon = start_daemon("-c", str(shown.file))
        assert f"redis://{where}: limits are shared by 1 nodes" in shown.says("status", file=False)
        shown.says("status", "--json", file=False)
        shown.says("explain", "GET /")
        shown.write(f"redis://default:{OTHER}@{where}")
        said = shown.says("reload", file=False)
        assert f"(store redis://{where} -> redis://{where}; another user or password)" in said
        shown.write(f"redis://default:{OTHER}@{LOOPBACK}:99999")
        assert "'redis://***@127.0.0.1:99999'" in shown.says("reload", file=False)
        shown.write(f"redis://default:{OTHER}/x@{where}")
        assert "a slash is written %2F" in shown.says("explain", "GET /")
        shown.texts.append(_check(shown.file))
        shown.look_at(daemon)
        redis.kill()
        wait_until(lambda: "the store is away" in daemon.stderr, "the loss is noticed")
        shown.look_at(daemon)
        daemon.finish()
        redis.start()
        shown.write(f"redis://default:{OTHER}@{where}")
        wrong = start_daemon("-c", str(shown.file))
        wait_until(lambda: "password" in wrong.stderr, f"it says what is wrong: {wrong.stderr}")
        shown.says("status", file=False)
        shown.look_at(wrong)
    for text in shown.texts:
        assert PASSWORD not in text
        assert OTHER not in text


def _check(file: Path) -> str:
    done = subprocess.run(
        [*COMMAND, "check", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    return done.stdout + done.stderr
