"""What only the whole configuration shows: routes and upstreams that belong together, how many limits meet.

`complete` returns the Config with what the manual says is added (the route of a lone upstream), or raises
ConfigError.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ratelimitd.config import model, overlap
from ratelimitd.config.document import Node, Place, place_of
from ratelimitd.config.reader import raise_all
from ratelimitd.errors import Problem

MOST_RATES = 16  # what one decision of the table can charge
MOST_CONCURRENT = 8  # limits of concurrency that one request can hold places of


def complete(config: model.Config, root: Node | None) -> model.Config:
    """`root` tells the places; None: the command line, which has none."""
    problems: list[Problem] = []
    if not config.upstreams:
        problems.append(_place(root, "upstreams").problem("there is no upstream to send requests to"))
    if not config.routes and len(config.upstreams) > 1:
        names = ", ".join(upstream.name for upstream in config.upstreams)
        place = _place(root, "upstreams")
        problems.append(
            place.problem(f"there are several upstreams ({names}) and no `routes` to choose between them")
        )
    together = overlap.crowd(config.limits, MOST_RATES)
    if together:
        names = ", ".join(limit.name for limit in together[: MOST_RATES + 1])
        message = (
            f"more than {MOST_RATES} rates apply to one request, the most that is counted at once: {names}"
        )
        problems.append(_place(root, "limits").problem(message))
    concurrent = [limit.name for limit in config.limits if limit.concurrent]
    if len(concurrent) > MOST_CONCURRENT:
        message = f"more than {MOST_CONCURRENT} limits are `concurrent`: {', '.join(concurrent)}"
        problems.append(_place(root, "limits").problem(message))
    problems += _admin_where_clients_connect(config, root)
    raise_all(problems)
    return with_routes(config)


def _admin_where_clients_connect(config: model.Config, root: Node | None) -> Iterator[Problem]:
    if not (config.admin.required and config.admin.port):
        return
    for listener in config.listen:
        everywhere = {listener.host, config.admin.host} & {"0.0.0.0", "::"}
        if listener.port == config.admin.port and (everywhere or listener.host == config.admin.host):
            place = place_of(root, "admin", "bind") if root else Place("command line", 1, 1)
            yield place.problem(
                f"the admin address is that of the listener {listener.bind}: metrics and keys would be "
                "public; give it a port of its own, such as 127.0.0.1:10429"
            )


def with_routes(config: model.Config) -> model.Config:
    """Without routes everything goes to the only upstream."""
    if config.routes:
        return config
    return msgspec.structs.replace(config, routes=(model.Route(upstream=config.upstreams[0].name),))


def _place(root: Node | None, section: str) -> Place:
    return place_of(root, section) if root else Place("command line", 1, 1)
