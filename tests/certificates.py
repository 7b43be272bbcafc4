"""Certificates made for a test: an authority, and what it issues, as files in PEM."""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def yaml(self) -> str:
        return f"{{certificate: '{self.certificate}', key: '{self.key}'}}"

    def replace_by(self, other: Pair) -> None:
        """These files now hold another pair, as after a renewal."""
        self.certificate.write_bytes(other.certificate.read_bytes())
        self.key.write_bytes(other.key.read_bytes())


class Authority:
    """Its own certificate lies in `file`; what it issues, in the same directory."""

    def __init__(self, directory: Path, name: str = "tests") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"authority of {name}")
        self.file = directory / f"{name}.authority.pem"
        authority = x509.BasicConstraints(ca=True, path_length=0)
        certificate = _signed(self._builder(self._name, self._key).add_extension(authority, True), self._key)
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(
        self, *names: str, days: int = 30, password: bytes | None = None, file: str | None = None
    ) -> Pair:
        """A pair for these names (DNS names or addresses), `days` from its end, which may lie in the past."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(names[0] if names else "nobody"), key, days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(map(_general, names)), False)
        stem = file or (names[0].replace("*", "_") if names else "nobody")
        pair = Pair(self._directory / f"{stem}.pem", self._directory / f"{stem}.key")
        pair.certificate.write_bytes(_signed(builder, self._key).public_bytes(Encoding.PEM))
        encryption = BestAvailableEncryption(password) if password else NoEncryption()
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return pair

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 30
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 90 * DAY)
            .not_valid_after(now + days * DAY)
        )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
