"""What the access log of a daemon under test says."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.daemon import Daemon
from tests.metrics import Metrics
from tests.servers import wait_until

REQUESTS = "ratelimitd_requests_total"


@dataclasses.dataclass(frozen=True)
class AccessLines:
    """The lines in `paths`, parsed; a line that is no JSON object is an error."""

    entries: list[dict[str, Any]]

    @classmethod
    def read(cls, *paths: Path) -> AccessLines:
        return cls.parse(b"".join(path.read_bytes() for path in paths))

    @classmethod
    def parse(cls, text: bytes) -> AccessLines:
        return cls([json.loads(line) for line in text.splitlines()])

    def outcomes(self) -> Counter[str]:
        return Counter(entry["outcome"] for entry in self.entries)


def settled_lines(daemon: Daemon, *paths: Path) -> tuple[AccessLines, Metrics]:
    """The lines once there are as many as requests were counted, and those counts."""
    metrics = daemon.settled_metrics()
    total = metrics.total(REQUESTS)

    def whole() -> AccessLines | None:
        count = sum(path.read_bytes().count(b"\n") for path in paths)
        return AccessLines.read(*paths) if count >= total else None

    return wait_until(whole, f"{total:g} lines in {paths}"), metrics
