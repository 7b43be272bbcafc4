"""One installed tree for the tests of a process: they look, and change nothing in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.systemd import trees


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("installed")
    trees.make("install", destination)
    return destination
