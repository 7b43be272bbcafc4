"""The command line: verbs, flags and exit codes; no logic.

Exit codes: 0 good, 1 a configuration that is wrong or a daemon that cannot start, 2 wrong usage. Errors go to
standard error as sentences, never as tracebacks. Each verb imports what it needs when it runs, so that the
short ones are fast.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ratelimitd import __version__
from ratelimitd.errors import ConfigError, RatelimitdError

if TYPE_CHECKING:
    from ratelimitd.config.flags import Flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code; wrong usage raises SystemExit(2)."""
    given = _parser().parse_args(arguments)
    verb: Callable[[argparse.Namespace], int] = given.verb
    try:
        code = verb(given)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        _complain(str(error))
    except RatelimitdError as error:
        _complain(f"ratelimitd: {error}")
    except BrokenPipeError:
        # The reader of our output left; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ratelimitd",
        description="A rate limiter in front of web servers: limits that hold exactly.",
        epilog="`ratelimitd VERB --help` says more about one verb.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ratelimitd {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(name: str, verb: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(verb=verb, usage=sub.error)
        return sub

    _add_run_flags(add("run", _run, "Serve in the foreground. Flags override the file, or stand alone."))
    check = add("check", _check, "Validate configurations as the daemon would.")
    check.add_argument("files", nargs="+", metavar="FILE", help="a configuration")
    add("demo", _demo, "Start a sample web server with ratelimitd before it, and say what to try.")
    add("schema", _schema, "Print the JSON Schema of the configuration.")
    add("version", _version, "Print the version.")
    return parser


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", metavar="FILE", help="the configuration")
    parser.add_argument(
        "--listen", metavar="ADDR", help="host:port, unix:/path or systemd:NAME (default: 127.0.0.1:8080)"
    )
    parser.add_argument(
        "--upstream",
        metavar="URL",
        action="append",
        default=[],
        help="a web server, http://host:port or unix:/path; several times for several servers; "
        "replaces the file's upstreams and routes",
    )
    parser.add_argument(
        "--limit",
        metavar="[PER=]RATE",
        action="append",
        default=[],
        help="such as 100/10s (for each client), global=10k/s or header:NAME=5/min; "
        "replaces the file's limits",
    )
    parser.add_argument("--store", metavar="URL", help="where counts are kept (default: memory)")
    parser.add_argument(
        "--workers", metavar="N", help="processes that serve (default: auto, one for each CPU)"
    )
    parser.add_argument("--admin", metavar="ADDR", help="where metrics are served (default: 127.0.0.1:10429)")


def _run(given: argparse.Namespace) -> int:
    from ratelimitd.config import load

    flags = _flags(given)
    if given.config is None:
        if not flags.servers:
            given.usage("give a configuration with -c FILE, or at least one --upstream URL")
        config = load.from_flags(flags)
    else:
        loaded = load.load_file(given.config)
        _warn(loaded)
        config = load.override(loaded.config, flags)

    from ratelimitd.control import supervisor

    return supervisor.run(config, given.config, flags)


def _flags(given: argparse.Namespace) -> Flags:
    """The flags' values; a wrong one is wrong usage."""
    from ratelimitd.config import addresses, flags
    from ratelimitd.config.document import quote

    def read(flag: str, reader: Callable[[str], Any], text: str | None) -> Any:
        if text is None:
            return None
        try:
            return reader(text)
        except ValueError as error:
            given.usage(f"argument {flag}: {quote(text)} {error}")

    fields = {
        "listen": read("--listen", flags.listen, given.listen),
        "servers": tuple(read("--upstream", flags.upstream, text) for text in given.upstream),
        "rates": tuple(read("--limit", flags.limit, text) for text in given.limit),
        "store": read("--store", flags.store, given.store),
        "workers": read("--workers", flags.workers, given.workers),
        "admin": read("--admin", addresses.tcp_bind, given.admin),
    }
    try:
        return flags.Flags(**fields)
    except ValueError as error:
        given.usage(f"argument --limit: {error}")
        raise


def _check(given: argparse.Namespace) -> int:
    from ratelimitd.config import load

    code = 0
    for file in given.files:
        try:
            loaded = load.load_file(file)
        except ConfigError as error:
            _complain(str(error))
            code = 1
        else:
            _warn(loaded)
            _say(f"{file}: the configuration is valid")
    return code


def _demo(_: argparse.Namespace) -> int:
    from ratelimitd.tools import demo

    return demo.main()


def _schema(_: argparse.Namespace) -> int:
    import json

    from ratelimitd.config import schema

    _say(json.dumps(schema.json_schema(), indent=2))
    return 0


def _version(_: argparse.Namespace) -> int:
    _say(f"ratelimitd {__version__}")
    return 0


def _warn(loaded: Any) -> None:
    for problem in loaded.warnings:
        place = f"{problem.file}:{problem.line}:{problem.column}"
        _complain(f"{place}: warning: {problem.message}")


def _say(text: str) -> None:
    print(text.encode(errors="backslashreplace").decode())  # a file's name may be no UTF-8


def _complain(text: str) -> None:
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
