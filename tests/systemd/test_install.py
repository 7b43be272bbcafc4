"""`make install`: a tree that needs neither this checkout nor the place where it was staged."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import ratelimitd
from tests.systemd import trees

pytestmark = pytest.mark.xdist_group("installed tree")


def files(directory: Path) -> set[str]:
    """All files but those inside the virtual environment."""
    found = {path.relative_to(directory) for path in directory.rglob("*") if not path.is_dir()}
    return {str(path) for path in found if "lib/ratelimitd" not in str(path)}


def test_the_tree(installed: Path) -> None:
    documents = "opt/ratelimitd/share/doc/ratelimitd"
    assert files(installed) == {
        "opt/ratelimitd/bin/ratelimitd",
        trees.UNIT,
        trees.EXAMPLE,
        *(f"{documents}/{name}" for name in ("README.md", "LICENSE", "CHANGELOG.md")),
        *(f"{documents}/{name}" for name in ("ratelimitd.yaml", "ratelimitd.socket")),
    }
    first = (trees.ROOT / "config/start.yaml").read_text()
    assert (installed / trees.EXAMPLE).read_text() == first.replace("/usr/local", trees.PREFIX)
    example = (trees.ROOT / "config/ratelimitd.yaml").read_bytes()
    assert (installed / documents / "ratelimitd.yaml").read_bytes() == example


def test_where_it_was_staged_is_written_into_no_file(installed: Path) -> None:
    staged = str(installed).encode()
    files = [path for path in installed.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 200
    assert [path for path in files if staged in path.read_bytes()] == []
    command = installed / "opt/ratelimitd/bin/ratelimitd"
    assert command.read_text().splitlines()[0] == f"#!{trees.PREFIX}/lib/ratelimitd/bin/python"
    unit = (installed / trees.UNIT).read_text()
    assert f"ExecStart={trees.PREFIX}/bin/ratelimitd run -c /etc/ratelimitd/ratelimitd.yaml" in unit
    assert "/usr/local" not in unit


def test_everything_is_compiled_and_runs_without_the_checkout(installed: Path) -> None:
    program = "import ratelimitd.proxy.worker as w, ratelimitd as r; print(w.__file__, r.__version__)"
    command = [str(trees.python(installed)), "-P", "-B", "-c", program]
    said = subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout.split()
    assert said[0].startswith(str(installed))
    assert said[1] == ratelimitd.__version__
    package = Path(said[0]).parents[1]
    sources = list(package.rglob("*.py"))
    assert len(sources) > 50
    compiled = {path.name.partition(".")[0] for path in package.rglob("*.pyc")}
    assert [path for path in sources if path.stem not in compiled] == []
    assert len(list(package.rglob("*.so"))) == len(list(trees.ROOT.glob("ratelimitd/**/*.pyx")))


def test_uninstall_leaves_the_configuration_and_nothing_else(installed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(installed, copy, symlinks=True)
    (copy / trees.EXAMPLE).write_text("mine")
    trees.make("uninstall", copy)
    assert [str(path.relative_to(copy)) for path in copy.rglob("*") if not path.is_dir()] == [trees.EXAMPLE]
    assert (copy / trees.EXAMPLE).read_text() == "mine"


@pytest.mark.parametrize(
    "setting", ["PREFIX=usr", "PREFIX=/opt/with space", "DESTDIR=here", "UNITDIR=/a'b", "PREFIX="]
)
def test_a_path_that_cannot_be_written_into_a_unit_is_refused(setting: str, tmp_path: Path) -> None:
    paths = {"DESTDIR": str(tmp_path), "PREFIX": "/usr", "SYSCONFDIR": "/etc", "UNITDIR": "/usr/lib"}
    name, _, value = setting.partition("=")
    done = subprocess.run(
        [str(trees.ROOT / "scripts/install-system"), "install"],
        env={"PATH": "/usr/bin:/bin", **paths, name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("A path ")
    assert list(tmp_path.iterdir()) == []


def test_a_python_that_the_build_was_not_made_with_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\necho /elsewhere/python3\n")
    other.chmod(0o755)
    paths = {
        "DESTDIR": str(tmp_path / "staged"),
        "PREFIX": "/usr",
        "SYSCONFDIR": "/etc",
        "UNITDIR": "/usr/lib",
    }
    done = subprocess.run(
        [str(trees.ROOT / "scripts/install-system"), "install"],
        env=paths | {"PYTHON": str(other), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"Type: make clean, then make install PYTHON={other}\n" in done.stderr
    assert not (tmp_path / "staged").exists()


@pytest.mark.slow
def test_a_configuration_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / trees.EXAMPLE).parent.mkdir(parents=True)
    (tmp_path / trees.EXAMPLE).write_text("mine")
    assert "/etc/ratelimitd/ratelimitd.yaml was left as it is" in trees.make("install", tmp_path)
    assert (tmp_path / trees.EXAMPLE).read_text() == "mine"
    trees.make("install", tmp_path)  # over itself, as an upgrade does
    assert trees.python(tmp_path).exists()


@pytest.mark.slow
def test_a_fresh_clone(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(trees.ROOT), str(checkout)], check=True)
    trees.make("install", tmp_path / "tree", checkout)
    command = [str(trees.python(tmp_path / "tree")), "-P", "-m", "ratelimitd", "version"]
    assert subprocess.run(command, cwd="/", capture_output=True, check=True).stdout.startswith(b"ratelimitd ")
