"""What runs is what the sources say: no stale extension, no other copy of the package.

Fails after a change of a .pyx, .pxd or .h file that was not built; `make build` mends it.
"""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import pytest

import ratelimitd

ROOT = Path(__file__).resolve().parent.parent
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
COMPILED = sorted(path.relative_to(ROOT) for path in ROOT.glob("ratelimitd/**/*.pyx"))


def test_the_package_is_this_checkout() -> None:
    assert Path(ratelimitd.__file__).resolve().parent == ROOT / "ratelimitd"


def test_setup_compiles_every_cython_file() -> None:
    assert SETUP["compiled_sources"]() == COMPILED
    assert COMPILED


@pytest.mark.parametrize("source", COMPILED, ids=str)
def test_extension_was_built_from_these_sources(source: Path) -> None:
    module = importlib.util.find_spec(".".join(source.with_suffix("").parts))
    assert module is not None
    assert module.origin is not None
    assert module.origin.endswith(".so"), f"{source} is not built: make build"
    assert SETUP["carries"](Path(module.origin), SETUP["fingerprint"](source)), (
        f"{source} is stale: make build"
    )
