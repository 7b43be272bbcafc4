"""What the daemon would make of one request: client, route, priority, limits and keys, and why.

Nothing is sent and no daemon is needed. The head is read, the client found, limits matched and keys made by
the code that does it for real requests; only the counts, which are the daemon's, are not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ratelimitd.config import model, units
from ratelimitd.control.difference import match_text
from ratelimitd.control.keytexts import parts_of, shown
from ratelimitd.errors import ClientFault, RatelimitdError
from ratelimitd.http.matching import Matcher
from ratelimitd.http.methods import METHODS
from ratelimitd.http.request import believed_values, read_request
from ratelimitd.limits import values
from ratelimitd.limits.keys import address
from ratelimitd.limits.policy import compile_limits
from ratelimitd.proxy.identity import Identify
from ratelimitd.tools.tables import columns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ratelimitd.http.head import Head
    from ratelimitd.http.matching import RequestText
    from ratelimitd.limits.charges import Client
    from ratelimitd.limits.policy import LimitRules


class ClientPart(msgspec.Struct, frozen=True):
    address: str
    why: str
    allowed: bool
    denied: bool


class RoutePart(msgspec.Struct, frozen=True):
    """`number` counts from 1."""

    number: int
    match: str
    upstream: str
    priority: str


class LimitPart(msgspec.Struct, frozen=True):
    """`key` is empty for a limit that does not apply."""

    name: str
    applies: bool
    why: str
    key: str = ""
    rates: tuple[str, ...] = ()
    concurrent: int = 0
    override: bool = False
    cost: int = 1
    action: str = "reject"


class Explained(msgspec.Struct, frozen=True):
    """`status` is what the daemon answers by itself, 0 when the request is for the limits to decide."""

    method: str
    host: str
    path: str
    status: int
    outcome: str
    client: ClientPart | None = None
    route: RoutePart | None = None
    limits: tuple[LimitPart, ...] = ()


class Question(msgspec.Struct, frozen=True):
    """A request line without version, fields as `Name: value`, and who is connected."""

    line: str
    peer: str = "127.0.0.1"
    fields: tuple[str, ...] = ()


class BadQuestion(RatelimitdError):
    """What was asked about is no request."""


def is_peer(text: str) -> bool:
    """Whether connections can come from there."""
    return text == "unix" or address(text) is not None


def explain(config: model.Config, question: Question) -> Explained:
    """What becomes of the request."""
    data = _head_bytes(question)
    bounds = config.bounds
    method, target = question.line.split(" ")[:2]
    refusal = _method_refusal(method)
    if refusal:
        return Explained(method, "", target, *refusal)
    try:
        head, text = read_request(data, bounds.headers, bounds.head, bounds.target)
    except ClientFault as fault:
        return Explained(method, "", target, fault.status, fault.detail)
    return _explain(config, question.peer, head, text)


def _head_bytes(question: Question) -> bytes:
    """The head as a client would send it."""
    parts = question.line.split(" ")
    if len(parts) == 3 and parts[2].startswith("HTTP/"):
        parts.pop()
    if len(parts) != 2 or not all(parts):
        raise BadQuestion(f"{question.line!r} is no request: write a method and a target, as in 'GET /path'")
    for field in question.fields:
        name, colon, _ = field.partition(":")
        if not colon or not name.strip() or "\r" in field or "\n" in field:
            raise BadQuestion(f"{field!r} is no header: write 'Name: value'")
    fields = list(question.fields)
    if not any(field.partition(":")[0].strip().lower() == "host" for field in fields):
        fields.insert(0, f"Host: {_authority(parts[1])}")
    lines = [f"{parts[0]} {parts[1]} HTTP/1.1", *fields, "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def _authority(target: str) -> str:
    """The host that an absolute target names."""
    _, scheme, rest = target.partition("://")
    return rest.partition("/")[0].partition("?")[0] if scheme and not target.startswith("/") else "localhost"


def _method_refusal(method: str) -> tuple[int, str] | None:
    if method == "CONNECT":
        return 405, "this is no forward proxy: CONNECT is not served"
    if method.encode() not in METHODS:
        return 501, "this method is not known here"
    return None


def _explain(config: model.Config, peer: str, head: Head, text: RequestText) -> Explained:
    client, trusted, why = _client(config.clients, peer, head)
    about = ClientPart(client.address, why, client.allowed, client.denied)
    method, host, path = text.method, text.host, text.path
    if client.denied:
        return Explained(method, host, path, 403, "clients.deny holds the client", about)
    route = _route(config, text)
    if route is None:
        return Explained(method, host, path, 404, "no route matches", about)
    if client.allowed:
        outcome = "forwarded: clients.allow holds the client, so that no limit applies"
        return Explained(method, host, path, 0, outcome, about, route)
    limits, status, outcome = _limits(config, head, text, client, trusted=trusted)
    return Explained(method, host, path, status, outcome, about, route, limits)


def _client(clients: model.Clients, peer: str, head: Head) -> tuple[Client, bool, str]:
    """The client, whether the peer is trusted, and how the client was found."""
    identify = Identify(clients, bytes(16))
    found = identify.peer(peer)
    if identify.field is None:
        return found.client, found.trusted, "the connection's address: clients.header is none"
    name = identify.field.decode()
    believed = believed_values(head, identify.field)
    if not found.trusted:
        ignored = f"; {name} is not believed, {peer} is no trusted proxy" if believed else ""
        return found.client, False, f"the connection's address{ignored}"
    if believed is None:
        return found.client, True, f"the connection's address: a trusted proxy, which sent no {name}"
    client = identify.forwarded_client(peer, believed)
    return client, True, f"from {name}, believed because {peer} is a trusted proxy"


def _route(config: model.Config, text: RequestText) -> RoutePart | None:
    for number, route in enumerate(config.routes, 1):
        if Matcher(route.match, for_limit=False)(text):
            return RoutePart(number, match_text(route.match), route.upstream, route.priority)
    return None


def _limits(
    config: model.Config, head: Head, text: RequestText, client: Client, *, trusted: bool
) -> tuple[tuple[LimitPart, ...], int, str]:
    """Every limit, and the status and outcome that follow. The first that insists on what is not there ends
    the request."""
    ids: dict[tuple[str, int], int] = {}
    compiled = compile_limits(
        config, lambda *key: ids.setdefault(key, len(ids) + 1), lambda *_: 0, lambda _: 0
    )
    parts: list[LimitPart] = []
    for limit, rules in zip(config.limits, compiled, strict=True):
        reason = _mismatch(limit.match, text)
        if reason:
            parts.append(LimitPart(limit.name, applies=False, why=reason))
            continue
        tail = values.tail(rules, head, client.key_bytes, text)
        per = " and ".join(limit.per)
        if tail is None:
            parts.append(LimitPart(limit.name, applies=True, why=f"{per} is there twice"))
            return tuple(parts), 400, f"{limit.name} counts by {per}, which is there twice"
        if not tail and limit.missing == "deny":
            parts.append(LimitPart(limit.name, applies=True, why=f"{per} is missing, and missing is deny"))
            return tuple(parts), 403, f"{limit.name} insists on {per}"
        if not tail:
            parts.append(LimitPart(limit.name, applies=False, why=f"{per} is missing, and missing is skip"))
            continue
        parts.append(_applied(limit, rules, tail, _cost(limit, head, trusted=trusted)))
    names = [part.name for part in parts if part.applies and part.action == "reject"]
    outcome = f"forwarded while there is room in {_each(names)}, then 429" if names else "forwarded"
    return tuple(parts), 0, outcome


def _each(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"each of {', '.join(names)}"


def _mismatch(match: model.Match, text: RequestText) -> str:
    """Why a limit is not for this request; empty when it is. Each part is tried by itself."""
    seen: dict[str, str] = {"host": text.host, "path": text.path, "method": text.method}
    for name, value in seen.items():
        wanted = getattr(match, name)
        if wanted and not Matcher(model.Match(**{name: wanted}), for_limit=True)(text):
            return f"{name} is {value}, not {' or '.join(wanted)}"
    for name, wanted in match.header:
        if not Matcher(model.Match(header=((name, wanted),)), for_limit=True)(text):
            return f"header {name} is {'another' if text.header(name.lower()) else 'missing'}, not {wanted}"
    return ""


def _applied(limit: model.Limit, rules: LimitRules, tail: bytes, cost: int) -> LimitPart:
    parts = parts_of(tail)
    own = [kind for kind, _ in rules.parts]
    stand_ins = [per for per, kind, (found, _) in zip(limit.per, own, parts, strict=True) if found != kind]
    why = f"for {match_text(limit.match)}; counts by {' and '.join(limit.per)}"
    if stand_ins:
        why += f"; {' and '.join(stand_ins)} is missing: the client stands in"
    rates, override = limit.rates, False
    if len(parts) == 1 and not stand_ins:
        chosen = [index for index, (value, _) in enumerate(rules.overrides) if value == parts[0][1]]
        if chosen:
            rates, override = limit.overrides[chosen[-1]][1], True
    return LimitPart(
        name=limit.name,
        applies=True,
        why=why,
        key=shown(parts, None),
        rates=tuple(units.format_rate(rate) for rate in rates),
        concurrent=limit.concurrent,
        override=override,
        cost=cost,
        action=limit.action,
    )


def _cost(limit: model.Limit, head: Head, *, trusted: bool) -> int:
    """What the request costs: a number of the configuration, or the field that a trusted proxy sent."""
    if limit.cost_header is None or not trusted:
        return limit.cost
    value = believed_values(head, limit.cost_header.name.lower().encode("latin-1"))
    if value is None or not value.isdigit():
        return 1
    return max(1, min(int(value), limit.cost_header.max_cost))


def as_json(explained: Explained) -> str:
    return msgspec.json.format(msgspec.json.encode(explained), indent=2).decode()


def tell(explained: Explained, say: Callable[[str], None]) -> None:
    """For people."""
    say(f"{explained.method} {explained.path}" + (f" on {explained.host}" if explained.host else ""))
    rows: list[tuple[str, str]] = []
    if explained.client:
        rows.append(("client", f"{explained.client.address}: {explained.client.why}"))
    if explained.route:
        route = explained.route
        rows.append(("route", f"{route.number} ({route.match}) to upstream {route.upstream}"))
        rows.append(("priority", route.priority))
    answer = f"{explained.status}: {explained.outcome}" if explained.status else explained.outcome
    for limit in explained.limits:
        rows.append((f"limit {limit.name}", _limit_text(limit)))
        if limit.applies:
            rows.append(("", limit.why))
    for line in columns([*rows, ("answer", answer)]):
        say(line)


def _limit_text(limit: LimitPart) -> str:
    if not limit.applies:
        return f"does not apply: {limit.why}"
    if not limit.key:
        return "refuses"
    much = " and ".join(limit.rates) if limit.rates else f"{limit.concurrent} requests at once"
    text = f"{much} for the key {limit.key}"
    text += " (an override)" if limit.override else ""
    text += f", cost {limit.cost}" if limit.cost != 1 else ""
    return text + (", only observed" if limit.action == "observe" else "")
