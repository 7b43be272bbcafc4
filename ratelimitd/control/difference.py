"""What differs between two configurations, in lines for people: each names a setting, what it was and is.

Limits, upstreams, listeners, routes and lists of networks are compared by what names them, so that one that
was added is not told as a change of all behind it. Whoever reads the lines learns where counts start fresh.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ratelimitd.config import addresses, model, units

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# What names an item of a list; its index does for the others.
_NAMES: Final[dict[type[Any], tuple[str, str]]] = {
    model.Limit: ("limit", "name"),
    model.Upstream: ("upstream", "name"),
    model.Server: ("server", "url"),
    model.Listener: ("listen", "bind"),
    model.ReplyOverride: ("reply", "status"),
    model.Certificate: ("certificate", "certificate"),
}
_LONGEST_LIST: Final = 4
# Fields that follow from another one, which is told.
_DERIVED: Final = {
    model.Server: {"host", "port", "unix_path", "tls"},
    model.Listener: {"host", "port", "unix_path", "systemd_name"},
    model.Admin: {"required"},
}


def differences(old: model.Config, new: model.Config) -> tuple[str, ...]:
    """The lines, in the order of the settings; none for equal configurations."""
    return tuple(_struct("", old, new))


def _struct(path: str, old: msgspec.Struct, new: msgspec.Struct) -> Iterator[str]:
    for name in old.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if before != after and name not in _DERIVED.get(type(old), ()):
            yield from _field(path, name, before, after)


def _field(path: str, name: str, before: Any, after: Any) -> Iterator[str]:
    here = f"{path}{'.' if path and not path.endswith(' ') else ''}{_title(name)}"
    if isinstance(before, tuple) or isinstance(after, tuple):
        yield from _tuple(path, here, name, before, after)
    elif isinstance(before, msgspec.Struct) and type(before) is type(after):
        yield from _struct(here, before, after)
    else:
        was, now = show(name, before), show(name, after)
        yield f"{here} {was} -> {now}{'; another user or password' if was == now else ''}"


def _tuple(path: str, here: str, name: str, before: tuple[Any, ...], after: tuple[Any, ...]) -> Iterator[str]:
    kind = type((before or after)[0])
    if kind in _NAMES:
        yield from _named(path, *_NAMES[kind], before, after)
    elif name == "rates":
        yield from _rates(here, before, after)
    elif name == "per":
        yield f"{here} {show(name, before)} -> {show(name, after)}; other keys: counts start fresh"
    elif name == "overrides":
        yield _overrides(here, dict(before), dict(after))
    elif kind is model.Route:
        yield from _routes(before, after)
    elif len(before) > _LONGEST_LIST or len(after) > _LONGEST_LIST:
        gone, come = set(before) - set(after), set(after) - set(before)
        order = "" if gone or come else ", another order"
        yield f"{here}: {len(come)} added, {len(gone)} removed, {len(after)} now{order}"
    else:
        yield f"{here} {show(name, before)} -> {show(name, after)}"


def _named(path: str, noun: str, key: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[str]:
    was = {getattr(item, key): item for item in before}
    now = {getattr(item, key): item for item in after}
    start = f"{path.removesuffix(': ')}: " if path else ""
    for name, item in was.items():
        if name not in now:
            yield f"{start}{noun} {name} removed"
        elif item != now[name]:
            yield from _struct(f"{start}{noun} {name}: ", item, now[name])
    for name, item in now.items():
        if name not in was:
            yield f"{start}{noun} {name} added{_summary(item)}"
    order, ordered = [name for name in was if name in now], [name for name in now if name in was]
    if order != ordered:
        yield f"{start}order of {noun}s {', '.join(map(str, order))} -> {', '.join(map(str, ordered))}"


def _summary(item: Any) -> str:
    if isinstance(item, model.Limit):
        much = show("rates", item.rates) if item.rates else f"{item.concurrent} at once"
        return f": {much} per {'+'.join(item.per)}"
    if isinstance(item, model.Upstream):
        return f": {', '.join(server.url for server in item.servers)}"
    return ""


def _rates(here: str, before: tuple[model.Rate, ...], after: tuple[model.Rate, ...]) -> Iterator[str]:
    line = f"{here} {show('rates', before)} -> {show('rates', after)}"
    kept = {rate.window_us for rate in before}
    fresh = [rate for rate in after if rate.window_us not in kept]
    if not fresh:
        yield f"{line}; what was counted stays"
    elif len(before) == len(after) == 1:
        yield f"{line}; window changed: counts start fresh"
    else:
        yield f"{line}; new window: counts of {show('rates', tuple(fresh))} start fresh"


def _overrides(here: str, before: dict[str, Any], after: dict[str, Any]) -> str:
    """Only how many: their keys may be tokens or cookies."""
    come, gone = after.keys() - before.keys(), before.keys() - after.keys()
    changed = sum(before[key] != after[key] for key in before.keys() & after.keys())
    return f"{here}: {len(come)} added, {len(gone)} removed, {changed} changed, {len(after)} now"


def _routes(before: tuple[model.Route, ...], after: tuple[model.Route, ...]) -> Iterator[str]:
    """The first match wins, so that a route is what it is by its place too."""
    first = 0
    while first < min(len(before), len(after)) and before[first] == after[first]:
        first += 1
    last = 0
    while last < min(len(before), len(after)) - first and before[-1 - last] == after[-1 - last]:
        last += 1
    gone, come = before[first : len(before) - last], after[first : len(after) - last]
    if len(gone) == len(come):
        for offset, (old, new) in enumerate(zip(gone, come, strict=True)):
            yield from _struct(f"route {first + offset + 1}: ", old, new)
        return
    for offset, route in enumerate(gone):
        yield f"route {first + offset + 1} removed: {route_text(route)}"
    for offset, route in enumerate(come):
        yield f"route {first + offset + 1} added: {route_text(route)}"


def route_text(route: model.Route) -> str:
    return f"{match_text(route.match)} -> {route.upstream}, priority {route.priority}"


def match_text(match: model.Match) -> str:
    """What a match asks for, on one line."""
    parts = [
        f"{name} {', '.join(values)}"
        for name, values in (("host", match.host), ("path", match.path), ("method", match.method))
        if values
    ]
    parts += [f"header {name}: {value}" for name, value in match.header]
    return "; ".join(parts) or "every request"


def _title(name: str) -> str:
    """The setting's name: fields carry their unit."""
    if name == "rates":
        return "rate"
    for unit in ("_ms", "_us", "_s"):
        name = name.removesuffix(unit)
    return name


def show(name: str, value: Any) -> str:
    """A value as an operator writes it."""
    if name.endswith("_ms") and isinstance(value, int):
        return units.format_duration(value)
    if name == "store":
        return addresses.without_login(value)
    if name == "expires_s":
        return str(dt.datetime.fromtimestamp(value, dt.UTC).date())
    if name == "fingerprint":
        return str(value[:16])
    match value:
        case True | False:
            return str(value).lower()
        case None | "" | ():
            return "none"
        case model.Rate():
            return units.format_rate(value)
        case model.Match():
            return match_text(value)
        case bytes():
            return f"{len(value)} bytes"
        case tuple():
            texts = [show("", item) for item in value]
            return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        case msgspec.Struct():
            fields = ((field, getattr(value, field)) for field in value.__struct_fields__)
            return "{" + ", ".join(f"{_title(field)}: {show(field, item)}" for field, item in fields) + "}"
        case _:
            return str(value)
