"""What editors make of `ratelimitd schema`, by a validator that knows nothing of ratelimitd.

A schema says less than `check`: what hangs on another setting or on a file is not in it. So whatever it
refuses `check` refuses too, and mistakes of spelling, type and range are among what it sees.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "config" / "ratelimitd.yaml"
CORPUS = ROOT / "tests" / "corpora" / "config"

# Mistakes that an editor underlines while they are made.
SEEN = [
    "choice_misspelled",
    "cost_of_zero",
    "duration_without_a_unit",
    "limit_without_per",
    "per_unknown",
    "rate_without_window",
    "share_without_a_percent_sign",
    "size_without_a_unit",
    "truth_in_quotes",
    "whole_number_out_of_range",
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "ratelimitd.json"
    command = [sys.executable, "-m", "ratelimitd", "schema"]
    path.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return path


def refused(schema: Path | str, *files: Path) -> set[Path]:
    """Which of `files` the validator refuses."""
    command = [sys.executable, "-m", "check_jsonschema", "--no-cache", "--output-format", "TEXT"]
    how = ["--check-metaschema"] if isinstance(schema, str) else ["--schemafile", str(schema)]
    done = subprocess.run([*command, *how, *files], check=False, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    found = {path for path in files if re.search(rf"^\s*{re.escape(str(path))}::", output, re.MULTILINE)}
    assert bool(found) == bool(done.returncode), output
    return found


def test_the_schema_is_one(schema: Path) -> None:
    assert refused("metaschema", schema) == set()


def test_good_files(schema: Path, tmp_path: Path) -> None:
    switched_on = tmp_path / "everything.yaml"
    switched_on.write_text(re.sub(r"^( *)#(?! |$)", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE))
    assert refused(schema, EXAMPLE, switched_on, *sorted((CORPUS / "valid").glob("*.yaml"))) == set()


def test_mistakes_that_an_editor_shows(schema: Path) -> None:
    files = [CORPUS / "invalid" / f"{name}.yaml" for name in SEEN]
    assert refused(schema, *files) == set(files)
