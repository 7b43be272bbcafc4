"""A machine of its own for systemd: a container with this system's /usr and nothing else.

systemd-nspawn boots it in about a second: root is an empty tmpfs, /usr is read-only, the network is a
loopback interface of its own. Commands run in it through its namespaces; nothing is installed there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.servers import Process, wait_until

MISSING: Final = (
    "needs root"
    if os.geteuid() != 0
    else "needs systemd-nspawn and nsenter: scripts/prepare test"
    if not (shutil.which("systemd-nspawn") and shutil.which("nsenter"))
    else ""
)
_CGROUPS: Final = tuple(Path("/sys/fs/cgroup") / part for part in (".", "unified", "systemd"))


class Machine(Process):
    """Running from the start of `with` to its end. `binds`: paths in it, and what lies there."""

    def __init__(self, directory: Path, binds: Sequence[tuple[str, Path]]) -> None:
        self._ours = _cgroup_directories()
        preset = directory / "00-nothing.preset"
        preset.write_text("disable *\n")  # or all services that this system has would start in it
        mounts = [("/etc/systemd/system-preset/00-nothing.preset", preset), *binds]
        super().__init__(
            "machine",
            [
                *("systemd-nspawn", "--quiet", "--boot", "--volatile=yes", "--directory=/"),
                *("--register=no", "--keep-unit", "--private-network", "--console=read-only"),
                f"--machine=ratelimitd-test-{os.getpid()}",
                *(f"--bind={source}:{target}" for target, source in mounts),
                *("systemd.firstboot=no", "systemd.unit=basic.target"),
            ],
            directory,
        )
        try:
            wait_until(self._has_booted, "the machine has booted", 60)
        except BaseException:
            self.stop()
            raise

    def run(self, *command: str, timeout_s: float = 60, status: int = 0) -> str:
        """What a command in the machine says, all of it; it must end with `status`."""
        done = self._run(command, timeout_s)
        assert done.returncode == status, f"{command}: {done.returncode}: {done.stdout}\n{self.journal()}"
        return done.stdout

    def journal(self, *options: str) -> str:
        return self._run(("journalctl", "--no-pager", "--quiet", "--output=short", *options), 30).stdout

    def unit(self, unit: str, setting: str) -> str:
        return self.run("systemctl", "show", "--property", setting, "--value", unit).strip()

    def stop(self, timeout_s: float = 20.0) -> int:
        """Halts it, with force after `timeout_s`; the cgroups that nspawn leaves behind go too."""
        code = super().stop(timeout_s)
        for directory in self._ours:
            for left in ("payload", "supervisor"):
                _remove_cgroup(directory / left)
        return code

    def _run(self, command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", f"--target={self._leader()}", "--all", "--wd", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _leader(self) -> str:
        """The pid of its systemd; of a helper of nspawn at first."""
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().strip() or "0"

    def _has_booted(self) -> bool:
        assert self.exit_code is None, f"systemd-nspawn ended: {self.stderr} {self.stdout}"
        said = self._run(("systemctl", "is-system-running", "--wait"), 60).stdout
        return said.strip() in {"running", "degraded"}


@contextlib.contextmanager
def booted(binds: Sequence[tuple[str, Path]]) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="ratelimitd-machine-") as directory:
        with Machine(Path(directory), binds) as machine:
            yield machine


def _cgroup_directories() -> list[Path]:
    """Where nspawn makes cgroups: in that of this process."""
    paths = {line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    return [mount / path.lstrip("/") for mount in _CGROUPS if mount.is_dir() for path in paths]


def _remove_cgroup(top: Path) -> None:
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):  # another container of the same place uses it
            Path(directory).rmdir()
