"""Files that the store needs: read at the start, and of no use with a cause and what to do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from ratelimitd.config.model import StoreOptions
from ratelimitd.control.store_parts import new_store, read_password, read_secret
from ratelimitd.errors import StartError
from tests.control.daemon import config


def written(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "file"
    path.write_bytes(content)
    return str(path)


def test_a_secret_of_any_length_becomes_sixteen_bytes(tmp_path: Path) -> None:
    text = b"correct horse battery staple"
    found = read_secret(written(tmp_path, text + b"\n"))
    assert found == hashlib.blake2b(text, digest_size=16).digest()


def test_a_short_secret_is_refused_with_a_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"has 5 characters, and needs 16 or more: `head -c 32"):
        read_secret(written(tmp_path, b"short\n"))


@pytest.mark.parametrize(
    ("content", "why"), [(b"\n", "is empty: write the password"), (b"\xff\xfe", "holds no text in UTF-8")]
)
def test_what_is_no_password(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(StartError, match=why):
        read_password(written(tmp_path, content))


@pytest.mark.parametrize("setting", ["password_file", "secret_file"])
def test_a_file_that_is_not_there_is_named_with_its_setting(tmp_path: Path, setting: str) -> None:
    missing = str(tmp_path / "missing")
    options = msgspec.structs.replace(StoreOptions(), **{setting: missing})
    with pytest.raises(StartError, match=f"cannot read {missing}, which store_options.{setting} names: No"):
        new_store(config(store="redis://127.0.0.1", store_options=options), lambda *_, **__: None)


def test_the_fleets_secret_is_the_files(tmp_path: Path) -> None:
    path = written(tmp_path, b"correct horse battery staple")
    options = StoreOptions(secret_file=path)
    store = new_store(config(store="redis://127.0.0.1", store_options=options), lambda *_, **__: None)
    assert store.secret == read_secret(path)
