"""The command line as its users see it: verbs, exit codes, what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ratelimitd
from ratelimitd import cli
from ratelimitd.config import schema
from ratelimitd.config.flags import Flags

ROOT = Path(__file__).parent.parent.parent
CORPUS = ROOT / "tests" / "corpora" / "config"
SMALLEST = str(CORPUS / "valid" / "smallest_with_a_limit.yaml")
MISSPELLED = str(CORPUS / "invalid" / "unknown_setting.yaml")


def ratelimitd_says(*arguments: str | bytes, stdout: int = subprocess.PIPE) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    command: list[str | bytes] = [sys.executable, "-m", "ratelimitd", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, timeout=30, check=False)
    return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()


def test_version() -> None:
    assert ratelimitd_says("version") == (0, f"ratelimitd {ratelimitd.__version__}\n", "")
    assert ratelimitd_says("--version") == (0, f"ratelimitd {ratelimitd.__version__}\n", "")


def test_version_imports_nothing_that_is_slow() -> None:
    program = "import sys; from ratelimitd import cli; cli.main(['version']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"yaml", "msgspec", "asyncio", "uvloop", "json", "prometheus_client", "httptools"}


def test_check_says_of_each_good_file_that_it_is_valid() -> None:
    example = "config/ratelimitd.yaml"
    start = "config/start.yaml"
    code, out, err = ratelimitd_says("check", SMALLEST, example, start)
    assert code == 0
    assert err.startswith(f"{example}:33:7: warning: upstream 'web' has 2 servers and no health check")
    assert err.count("\n") == 1
    assert out == "".join(f"{file}: the configuration is valid\n" for file in (SMALLEST, example, start))


def test_check_tells_every_problem_and_goes_on_with_the_next_file() -> None:
    code, out, err = ratelimitd_says("check", MISSPELLED, SMALLEST, "/nonexistent")
    assert code == 1
    assert out == f"{SMALLEST}: the configuration is valid\n"
    assert err == (
        f"{MISSPELLED}:3:1: unknown setting 'wrokers': did you mean 'workers'?\n"
        "/nonexistent:1:1: the file cannot be read: No such file or directory\n"
    )


def test_check_warns(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(Path(SMALLEST).read_text() + "clients: {deny: [0.0.0.0/0]}\n")
    code, out, err = ratelimitd_says("check", str(path))
    assert (code, out) == (0, f"{path}: the configuration is valid\n")
    assert err.startswith(f"{path}:3:17: warning: deny holds 0.0.0.0/0: every client is refused.")


def test_check_of_a_file_whose_name_is_no_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.yaml"
    Path(os.fsdecode(path)).write_text(Path(SMALLEST).read_text())
    code, out, err = ratelimitd_says("check", path)
    assert (code, err) == (0, "")
    assert out.endswith(".yaml: the configuration is valid\n")


def test_a_reader_that_left_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code, _, err = ratelimitd_says("schema", stdout=writing)
    os.close(writing)
    assert (code, err) == (1, "")


def test_schema_is_the_one_of_the_table() -> None:
    code, out, err = ratelimitd_says("schema")
    assert (code, err) == (0, "")
    assert json.loads(out) == schema.json_schema()


def test_run_with_a_wrong_configuration() -> None:
    assert ratelimitd_says("run", "-c", MISSPELLED) == (
        1,
        "",
        f"{MISSPELLED}:3:1: unknown setting 'wrokers': did you mean 'workers'?\n",
    )


UPSTREAM = ("--upstream", "http://127.0.0.1:9000")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: VERB"),
        (("frob",), "invalid choice: 'frob'"),
        (("check",), "the following arguments are required: FILE"),
        (("run",), "give a configuration with -c FILE, or at least one --upstream URL"),
        (("run", "--frob"), "unrecognized arguments: --frob"),
        (("run", *UPSTREAM, "--work", "2"), "unrecognized arguments: --work 2"),
        (
            ("run", "--upstream", "127.0.0.1:9000"),
            "argument --upstream: '127.0.0.1:9000' begins with none of http://",
        ),
        (
            ("run", *UPSTREAM, "--limit", "100"),
            "argument --limit: '100' has no window (did you mean 100/s?); expected COUNT/WINDOW for each",
        ),
        (
            ("run", *UPSTREAM, "--listen", "18080"),
            "argument --listen: '18080' has no address (did you mean 127.0.0.1:18080, or 0.0.0.0:18080 for",
        ),
        (("run", *UPSTREAM, "--limit", "cleint=5/s"), "is no key (did you mean client?)"),
        (
            ("run", *UPSTREAM, "--limit", "5/s", "--limit", "6/s"),
            "per-client has two rates with the window 1s",
        ),
        (("run", *UPSTREAM, "--listen", ":80"), "argument --listen: ':80' has no address"),
        (("run", *UPSTREAM, "--listen", "systemd:"), "argument --listen: 'systemd:' names no socket"),
        (("run", *UPSTREAM, "--workers", "0"), "argument --workers: '0' is neither auto nor a whole number"),
        (("run", *UPSTREAM, "--admin", "here"), "argument --admin: 'here' has no port"),
        (("run", *UPSTREAM, "--store", "\x1b[31m"), "argument --store: '\\x1b[31m' begins with none of"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_no_flags_are_the_empty_flags() -> None:
    given = cli._parser().parse_args(["run"])
    assert cli._flags(given) == Flags()


@pytest.mark.parametrize(
    "verb",
    ["run", "check", "status", "reload", "drain", "keys", "explain", "demo", "schema", "version"],
)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([verb, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ratelimitd {verb}")
