"""Files of certificates, keys and authorities: what is wrong with them is told with its place."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimitd.config import load
from ratelimitd.config.x509 import facts
from ratelimitd.errors import ConfigError
from tests.certificates import Authority, Pair

DAY_S = 86_400


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


def loaded(directory: Path, tls: str, upstream: str = "", now_s: float | None = None) -> load.Loaded:
    file = directory / "f.yaml"
    file.write_text(
        f"upstreams: {{web: {{servers: [https://a.example], {upstream}}}}}\n"
        "listen:\n- bind: 127.0.0.1:8443\n  tls:\n"
        f"  - {tls}\n"
        "limits: [{name: each, per: client, rate: 5/s}]\n"
    )
    return load.load_file(str(file), {}, now_s)


def refusal(directory: Path, tls: str, upstream: str = "") -> str:
    """The only problem, without the directory of the files."""
    with pytest.raises(ConfigError) as caught:
        loaded(directory, tls, upstream)
    (problem,) = caught.value.problems
    return str(problem).removeprefix(f"{directory}/f.yaml:")


def test_a_good_pair_is_read_with_what_it_says(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("A.example", "*.b.example", "192.0.2.1")
    (certificate,) = loaded(tmp_path, pair.yaml).config.listen[0].tls
    assert (certificate.certificate, certificate.key) == (str(pair.certificate), str(pair.key))
    assert certificate.names == ("a.example", "*.b.example")
    assert certificate.expires_s == pytest.approx(time.time() + 30 * DAY_S, abs=600)
    assert len(certificate.fingerprint) == 64
    again = loaded(tmp_path, authority.issue("A.example", "*.b.example").yaml).config.listen[0].tls[0]
    assert again.fingerprint != certificate.fingerprint


def test_one_without_names_is_read(tmp_path: Path, authority: Authority) -> None:
    assert loaded(tmp_path, authority.issue().yaml).config.listen[0].tls[0].names == ()


def place(tls: str, setting: str) -> str:
    """Where the value of a setting stands."""
    return f"5:{tls.index(f'{setting}: ') + len(setting) + 7}: {setting}: "


def test_a_pair_that_does_not_belong_together(tmp_path: Path, authority: Authority) -> None:
    first, second = authority.issue("a.example"), authority.issue("b.example")
    tls = Pair(first.certificate, second.key).yaml
    message = refusal(tmp_path, tls)
    assert message.startswith(place(tls, "key"))
    assert "b.example.key' is not the key of the first certificate in" in message


def test_an_encrypted_key(tmp_path: Path, authority: Authority) -> None:
    tls = authority.issue("secret.example", password=b"secret").yaml
    message = refusal(tmp_path, tls)
    assert message.startswith(place(tls, "key"))
    assert "is encrypted, and nobody is there to type its password: write it without one" in message


@pytest.mark.parametrize("setting", ["certificate", "key"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "PEM"),
        (b"\0" * 100, "PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ""),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", ""),
        (b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", ""),
        (b"x" * (2 << 20), "is larger than 1 MiB"),
        (None, "cannot be read: No such file"),
    ],
    ids=["empty", "binary", "broken-certificate", "broken-key", "no-base64", "large", "missing"],
)
def test_a_file_that_holds_something_else(
    tmp_path: Path, authority: Authority, setting: str, content: bytes | None, said: str
) -> None:
    good = authority.issue("good.example")
    bad = tmp_path / "bad.pem"
    if content is not None:
        bad.write_bytes(content)
    pair = Pair(bad, good.key) if setting == "certificate" else Pair(good.certificate, bad)
    message = refusal(tmp_path, pair.yaml)
    assert message.startswith(place(pair.yaml, setting))
    assert "bad.pem'" in message
    assert said in message


def test_one_that_ends_is_warned_of(tmp_path: Path, authority: Authority) -> None:
    def warnings(days: int) -> list[str]:
        found = loaded(tmp_path, authority.issue("ends.example", days=days).yaml).warnings
        return [warning.message.partition(" on ")[0] for warning in found]

    assert warnings(15) == []
    assert warnings(13) == ["the certificate expires"]
    assert warnings(-1) == ["the certificate expired"]
    pair = authority.issue("ends.example", days=60)
    later = loaded(tmp_path, pair.yaml, now_s=time.time() + 50 * DAY_S).warnings
    assert str(later[0]).startswith(f"{tmp_path}/f.yaml:5:")


def test_one_that_nobody_is_given_is_warned_of(tmp_path: Path, authority: Authority) -> None:
    first, second = authority.issue("a.example"), authority.issue(file="nameless")
    (warning,) = loaded(tmp_path, f"{first.yaml}\n  - {second.yaml}").warnings
    assert "no DNS name" in warning.message
    assert warning.line == 6


def test_authorities_of_servers(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("a.example")
    tls = loaded(tmp_path, pair.yaml, f"tls: {{ca: {authority.file}}}").config.upstreams[0].tls
    assert tls.ca == str(authority.file)
    message = refusal(tmp_path, pair.yaml, f"tls: {{ca: {pair.key}}}")
    assert message.startswith("1:")
    assert "holds no certificates in PEM" in message
    for name in ("a..b", ".a", "a b", "x" * 64):
        assert "has no valid host" in refusal(tmp_path, pair.yaml, f"tls: {{server_name: '{name}'}}")


LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(st.lists(LABELS, min_size=1, max_size=4).map(".".join), max_size=30)


@settings(max_examples=25)
@given(NAMES, st.integers(-19 * 365, 400 * 365), st.booleans())
def test_what_a_certificate_says_is_read_as_others_read_it(
    names: list[str], days: int, critical: bool
) -> None:
    """The invariant: the names, the end and the fingerprint are those that `cryptography` wrote."""
    last = dt.datetime(1970, 1, 1, 1, 2, 3, tzinfo=dt.UTC) + dt.timedelta(days)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(last - dt.timedelta(days=1))
        .not_valid_after(last)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical)
    )
    if names:
        others = [x509.RFC822Name("a@a.example"), x509.DirectoryName(subject)]
        listed = [*map(x509.DNSName, names), *others]
        builder = builder.add_extension(x509.SubjectAlternativeName(listed), critical)
    certificate = builder.sign(key, hashes.SHA256())
    found = facts(certificate.public_bytes(Encoding.DER))
    assert found.names == tuple(names)
    assert found.expires_s == int(last.timestamp())
    assert found.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()


@given(st.binary(max_size=200))
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        facts(data)
