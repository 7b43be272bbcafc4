"""What the tests of links share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis_servers import Redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server
