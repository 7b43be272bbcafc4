"""The table of decisions: files of tests/corpora/decisions, one for each rule, and how they are read.

A file has a `config` and `rows`. A row says what it is `about` and what is asked, one step a request:

    [429 per-client, GET /login, 192.0.2.1, "X-Plan: gold"]

is a status and the limit that decides (or the status alone), the request line, who asks, and more fields.
Addresses of 127.0.0.0/8 connect themselves, all others are named by the trusted proxy 127.0.0.2. WINDOW
stands for a window that no other row has, WINDOW2 for a second one: so every row begins with nothing
counted. `route` is the number of the route that takes the row's requests, its upstream and their priority;
URL stands for a web server. Values that are secrets differ in their first four characters, since no more of
them is ever shown.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from ratelimitd.tools.explain import Question

CORPUS: Final = Path(__file__).parent.parent / "corpora" / "decisions"
PROXY: Final = "127.0.0.2"


@dataclasses.dataclass(frozen=True)
class Step:
    """One request; `limit` is empty where none decides."""

    status: int
    limit: str
    question: Question


@dataclasses.dataclass(frozen=True)
class Row:
    rule: str
    about: str
    steps: tuple[Step, ...]
    config: str  # with WINDOW and URL in it
    route: tuple[int, str, str] | None = None

    def written(self, url: str, number: int) -> str:
        """The configuration in windows that no row with another number has."""
        whole: dict[str, Any] = {
            "upstreams": {"web": {"servers": ["URL"]}},
            "clients": {"trusted_proxies": [PROXY]},
            "shedding": {"cpu_pressure": {"signal": "none"}},
        } | json.loads(self.config)
        text = json.dumps(whole, indent=1)
        text = text.replace("URL", url)
        return text.replace("WINDOW2", f"{200_000 + number}s").replace("WINDOW", f"{100_000 + number}s")


def rows() -> Iterator[Row]:
    for path in sorted(CORPUS.glob("*.yaml")):
        parsed = yaml.safe_load(path.read_text())
        for row in parsed["rows"]:
            steps = tuple(_step(*step) for step in row["asks"])
            route = tuple(row["route"]) if "route" in row else None
            yield Row(path.stem, row["about"], steps, json.dumps(parsed["config"]), route)


def _step(expected: str | int, line: str, who: str, *fields: str) -> Step:
    status, _, limit = str(expected).partition(" ")
    if who.startswith("127."):
        return Step(int(status), limit, Question(line, who, fields))
    return Step(int(status), limit, Question(line, PROXY, (f"X-Forwarded-For: {who}", *fields)))


numbers: Final = itertools.count()
