"""The command line: verbs, flags and exit codes; no logic.

Exit codes: 0 good, 1 a wrong configuration, or a daemon that cannot start or refuses, 2 wrong usage, 3 no
daemon that answers. Errors go to standard error as sentences, never as tracebacks. Each verb imports what it
needs when it runs, so that the short ones are fast.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ratelimitd import __version__
from ratelimitd.errors import ConfigError, NoDaemon, RatelimitdError

if TYPE_CHECKING:
    from ratelimitd.config.flags import Flags
    from ratelimitd.tools.admin_client import AdminClient


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
    except NoDaemon as error:
        _complain(f"ratelimitd: {error}")
        return 3
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
    _add_explain_flags(add("explain", _explain, "What the daemon would make of a request, and why."))
    for name, purpose in (
        ("status", "How the daemon is."),
        ("reload", "Have the daemon read its configuration again; says what changed."),
        ("drain", "Have the daemon finish what is under way and end."),
    ):
        _add_daemon_flags(add(name, _of_daemon, purpose)).set_defaults(name=name)
    _add_keys_flags(add("keys", _keys, "Look at what limits count, and change it."))
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


def _add_daemon_flags(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Where the daemon is, and how its answer is told."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--socket", metavar="PATH", help="the daemon's admin socket")
    place.add_argument("--admin", metavar="URL", help="its admin address, such as http://127.0.0.1:10429")
    place.add_argument("-c", "--config", metavar="FILE", help="its configuration, which says where that is")
    parser.add_argument(
        "--token-file", metavar="FILE", help="the token that changes over TCP need (admin.token_file)"
    )
    parser.add_argument("--json", action="store_true", help="the answer for scripts")
    return parser


def _add_keys_flags(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, purpose in (
        ("list", "The keys that are refused or banned."),
        ("show", "How much a key has used."),
        ("reset", "Forget what was counted for a key on all nodes, a ban included."),
        ("ban", "Refuse a key on all nodes for a time, whatever it has used."),
        ("unban", "Lift a ban on all nodes."),
    ):
        action = _add_daemon_flags(
            actions.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        )
        action.set_defaults(action=name, usage=action.error)
        if name == "list":
            continue
        action.add_argument(
            "key",
            metavar="KEY",
            nargs="+",
            help="an address, a value, or as `keys list` shows it; "
            "several for a limit that counts by several things",
        )
        action.add_argument(
            "--limit", metavar="NAME", help="only in this limit (default: in all it may be in)"
        )
        if name == "ban":
            action.add_argument("--for", dest="span", metavar="DURATION", help="how long (default: 10m)")


def _add_explain_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", metavar="FILE", required=True, help="the configuration")
    parser.add_argument("request", metavar="'METHOD TARGET'", help="such as 'GET /path?query'")
    parser.add_argument(
        "--client", metavar="IP", default="127.0.0.1", help="who is connected (default: 127.0.0.1)"
    )
    parser.add_argument(
        "-H", "--header", metavar="'Name: value'", action="append", default=[], help="a field of the request"
    )
    parser.add_argument("--json", action="store_true", help="the answer for scripts")


def _run(given: argparse.Namespace) -> int:
    from ratelimitd.config import load

    flags = _flags(given)
    if given.config is None:
        if not flags.servers:
            given.usage("give a configuration with -c FILE, or at least one --upstream URL")
        config = load.from_flags(flags)
    else:
        loaded = load.load_file(given.config, given=flags)
        _warn(loaded)
        config = loaded.config

    from ratelimitd.control import supervisor

    return supervisor.run(config, given.config, flags)


def _flags(given: argparse.Namespace) -> Flags:
    """The flags' values; a wrong one is wrong usage."""
    from ratelimitd.config import addresses, flags
    from ratelimitd.config.document import quote

    def read(flag: str, reader: Callable[[str], Any], text: str | None, expected: str = "") -> Any:
        if text is None:
            return None
        try:
            return reader(text)
        except ValueError as error:
            known = f"; expected {expected}" if expected else ""
            given.usage(f"argument {flag}: {quote(text)} {error}{known}")

    fields = {
        "listen": read("--listen", flags.listen, given.listen, addresses.BIND),
        "servers": tuple(
            read("--upstream", flags.upstream, text, addresses.SERVER) for text in given.upstream
        ),
        "rates": tuple(read("--limit", flags.limit, text, flags.LIMIT) for text in given.limit),
        "store": read("--store", flags.store, given.store),
        "workers": read("--workers", flags.workers, given.workers),
        "admin": read("--admin", addresses.tcp_bind, given.admin, addresses.TCP_BIND),
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


def _explain(given: argparse.Namespace) -> int:
    from ratelimitd.config import load
    from ratelimitd.tools import explain

    if not explain.is_peer(given.client):
        given.usage(f"argument --client: {given.client!r} is no address")
    config = load.load_file(given.config).config
    question = explain.Question(given.request, given.client, tuple(given.header))
    explained = explain.explain(config, question)
    if given.json:
        _say(explain.as_json(explained))
    else:
        explain.tell(explained, _say)
    return 0


def _of_daemon(given: argparse.Namespace) -> int:
    from ratelimitd.tools import verbs

    verb = {"status": verbs.status, "reload": verbs.reload, "drain": verbs.drain}[given.name]
    return verb(_admin_client(given), _say, as_json=given.json)


def _keys(given: argparse.Namespace) -> int:
    from ratelimitd.tools import verbs

    client = _admin_client(given)
    if given.action == "list":
        return verbs.keys_list(client, _say, as_json=given.json)
    parameters = [("key", key) for key in given.key]
    parameters += [("limit", given.limit)] if given.limit else []
    if given.action == "show":
        return verbs.keys_show(client, _say, parameters, as_json=given.json)
    if given.action == "ban" and given.span:
        parameters.append(("for", given.span))
    return verbs.keys_change(client, _say, given.action, parameters, as_json=given.json)


def _admin_client(given: argparse.Namespace) -> AdminClient:
    """The daemon that the flags name."""
    from ratelimitd.tools import admin_client

    try:
        place = admin_client.place(given.socket, given.admin, given.config, given.token_file)
    except ValueError as error:
        given.usage(str(error))
        raise
    return admin_client.AdminClient(place)


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
