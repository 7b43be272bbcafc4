"""The installed service under a systemd that runs: started, asked, reloaded, struck, stopped, hardened."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import wait_until
from tests.systemd import trees
from tests.systemd.machine import MISSING, Machine, booted

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

CONFIG = """
listen: [{bind: "BIND"}]
upstreams: {web: {servers: ["http://127.0.0.1:9000"]}}
limits: [{name: per-client, per: client, rate: RATE}]
admin: {bind: "127.0.0.1:10429"}
bounds: {connections: 1000}
"""
UNIT = "ratelimitd.service"
SLOW_S = 4
WEB_SERVER = f"""
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep({SLOW_S} if self.path == "/slow" else 0)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 9000), Handler).serve_forever()
"""
SOCKET = "/etc/systemd/system/ratelimitd.socket"


class Site:
    """A machine with the service and a web server; `etc` is its /etc/ratelimitd."""

    def __init__(self, machine: Machine, etc: Path) -> None:
        self.machine = machine
        self._file = etc / "ratelimitd.yaml"

    def configure(self, bind: str = "0.0.0.0:80", rate: str = "1000/s", more: str = "") -> None:
        self._file.write_text(CONFIG.replace("BIND", bind).replace("RATE", rate) + more)

    def override(self, setting: str) -> None:
        """What a drop-in of the operator says, until the machine ends or the next one."""
        directory = f"/run/systemd/system/{UNIT}.d"
        text = f"[Service]\\n{setting}\\n" if setting else ""
        self.machine.run("sh", "-c", f"mkdir -p {directory} && printf '{text}' >{directory}/test.conf")
        self.systemctl("daemon-reload")

    def systemctl(self, *arguments: str, status: int = 0) -> str:
        return self.machine.run("systemctl", *arguments, status=status)

    def status(self) -> int:
        """Of an answer on port 80; 0 when nobody answers."""
        command = "curl -s -o /dev/null -w %{http_code} http://127.0.0.1/; exit 0"
        return int(self.machine.run("sh", "-c", command))

    def property(self, name: str) -> str:
        return self.machine.unit(UNIT, name)


def as_service(pid: str, user: str, group: str) -> tuple[str, ...]:
    """What comes before a command that is to see and may do what the process `pid` of the service may."""
    rights = [f"--{kind}-caps=+net_bind_service" for kind in ("inh", "ambient")]
    return (
        *("nsenter", f"--target={pid}", "--mount", "--wd"),
        *("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *rights),
    )


@pytest.fixture(scope="module")
def machine(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Path]]:
    base = subprocess.run(
        [trees.python(installed), "-c", "import sys; print(sys.base_prefix)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not base.startswith("/usr"):
        pytest.skip(f"the machine has /usr alone, and the Python of this build lies in {base}")
    etc = tmp_path_factory.mktemp("etc")
    etc.chmod(0o755)
    socket = tmp_path_factory.mktemp("socket") / "ratelimitd.socket"
    shutil.copy(trees.ROOT / "systemd/ratelimitd.socket", socket)
    binds = [
        (trees.PREFIX, installed / trees.PREFIX.lstrip("/")),
        ("/etc/ratelimitd", etc),
        (f"/{trees.UNIT}", installed / trees.UNIT),
        (SOCKET, socket),
    ]
    with booted(binds) as running:
        python = f"{trees.PREFIX}/lib/ratelimitd/bin/python"
        running.run("systemd-run", "--quiet", "--unit=web", python, "-c", WEB_SERVER)
        yield running, etc


@pytest.fixture
def site(machine: tuple[Machine, Path]) -> Iterator[Site]:
    """With the service stopped and the journal empty."""
    running, etc = machine
    site = Site(running, etc)
    site.configure()
    running.run("journalctl", "--rotate")
    running.run("journalctl", "--quiet", "--vacuum-time=1s")
    yield site
    site.systemctl("stop", "ratelimitd.socket", UNIT)
    site.override("")
    site.systemctl("reset-failed")
    assert "Traceback" not in running.journal()


def test_started_reloaded_stopped(site: Site) -> None:
    site.systemctl("start", UNIT)
    assert site.property("ActiveState") == "active"
    assert site.property("StatusText") == "serving on 0.0.0.0:80"
    assert site.status() == 200

    site.configure(rate="3/1h")
    site.systemctl("reload", UNIT)
    wait_until(lambda: "reloaded: limit " in site.machine.journal("-u", UNIT), "it has reloaded")
    assert [site.status() for _ in range(4)] == [200, 200, 200, 429]
    assert site.property("ActiveState") == "active"

    site.systemctl("stop", UNIT)
    assert site.property("Result") == "success"
    assert site.property("ExecMainStatus") == "0"
    assert site.status() == 0
    assert site.machine.journal("-u", UNIT, "-p", "warning") == ""
    assert "drained" in site.machine.journal("-u", UNIT)


def test_the_access_log_in_journald_can_be_looked_up(site: Site) -> None:
    site.configure(rate="2/1h", more="log: {destination: journald}\n")
    site.systemctl("start", UNIT)
    assert [site.status() for _ in range(3)] == [200, 200, 429]
    wait_until(lambda: site.machine.journal("-u", UNIT, "RATELIMITD_OUTCOME=limited"), "it is there")
    (line,) = site.machine.journal("-t", "ratelimitd", "RATELIMITD_STATUS=429").splitlines()
    assert '"outcome":"limited"' in line
    assert len(site.machine.journal("RATELIMITD_OUTCOME=forwarded").splitlines()) == 2


def test_a_drain_may_take_longer_than_the_unit_allows(site: Site) -> None:
    site.override("TimeoutStopSec=1s")
    site.systemctl("start", UNIT)
    ask = "curl -s -o /dev/null -w %{http_code} http://127.0.0.1/slow"
    said = site.machine.run("sh", "-c", f"{ask} & sleep 1; systemctl stop {UNIT}; wait")
    assert said == "200"
    assert site.property("Result") == "success"


def test_a_mistake_in_the_file_fails_the_reload_and_the_service_serves_on(site: Site) -> None:
    site.systemctl("start", UNIT)
    main = site.property("MainPID")
    site.configure(more="limts: []\n")
    site.systemctl("reload", UNIT, status=1)
    assert "/etc/ratelimitd/ratelimitd.yaml:7:1: unknown setting 'limts'" in site.machine.journal("-u", UNIT)
    assert site.property("ActiveState") == "active"
    assert site.property("MainPID") == main
    assert site.status() == 200


def test_a_mistake_in_the_file_fails_the_start_and_a_correction_mends_it(site: Site) -> None:
    site.configure(more="limts: []\n")
    site.systemctl("start", UNIT, status=1)
    assert "unknown setting 'limts'" in site.machine.journal("-u", UNIT)
    site.configure()
    wait_until(lambda: site.status() == 200, "it was started again", 20)


def test_a_killed_service_is_back(site: Site) -> None:
    site.systemctl("start", UNIT)
    site.systemctl("kill", "--kill-who=main", "--signal=KILL", UNIT)
    wait_until(lambda: site.property("NRestarts") == "1", "systemd started it again", 20)
    wait_until(lambda: site.status() == 200, "it serves again", 20)


def test_a_stuck_supervisor_is_replaced_by_the_watchdog(site: Site) -> None:
    site.systemctl("start", UNIT)
    site.systemctl("kill", "--kill-who=main", "--signal=STOP", UNIT)
    wait_until(lambda: site.property("NRestarts") == "1", "the watchdog struck", 40)
    assert "watchdog" in site.machine.journal("-u", UNIT).lower()
    wait_until(lambda: site.status() == 200, "it serves again", 20)


def test_what_the_service_may_and_may_not(site: Site) -> None:
    site.systemctl("start", UNIT)
    main = site.property("MainPID")
    user, group = site.machine.run("stat", "-c", "%u %g", f"/proc/{main}").split()
    assert int(user) > 60_000, "no user of this system"
    worker = site.machine.run("cat", f"/proc/{main}/task/{main}/children").split()[0]
    inside = as_service(main, user, group)
    for signal in (f"/proc/{worker}/schedstat", "/proc/stat", "/proc/sys/kernel/random/boot_id"):
        assert site.machine.run(*inside, "cat", signal).strip(), signal
    if Path("/proc/pressure/cpu").exists():
        assert site.machine.run(*inside, "cat", "/proc/pressure/cpu").startswith("some avg10=")
    assert site.machine.run(*inside, "ls", "/sys/fs/cgroup").strip()
    for directory in ("/run/ratelimitd", "/var/lib/ratelimitd", "/var/log/ratelimitd"):
        site.machine.run(*inside, "touch", f"{directory}/written")
    for directory in ("/etc/ratelimitd", "/usr", "/root", "/sys/fs/cgroup"):
        site.machine.run(*inside, "touch", f"{directory}/written", status=1)
    status = dict(
        line.split(":\t", 1) for line in site.machine.run("cat", f"/proc/{worker}/status").splitlines()
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 1 << 10, "CAP_NET_BIND_SERVICE alone"


def test_a_restart_refuses_nobody_when_systemd_holds_the_port(site: Site) -> None:
    site.configure(bind="systemd:http")
    site.systemctl("start", "ratelimitd.socket")
    assert site.property("ActiveState") == "inactive"
    assert site.status() == 200, "the first connection starts it"
    main = site.property("MainPID")
    site.systemctl("restart", "--no-block", UNIT)
    statuses = [site.status()]
    while site.property("MainPID") in (main, "0") or site.property("ActiveState") != "active":
        statuses.append(site.status())
    assert set(statuses) == {200}
    assert site.machine.journal("-u", UNIT, "-p", "warning") == ""
