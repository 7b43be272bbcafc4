"""Certificates, keys and authorities that the configuration names, tried as they will be used.

So a pair that does not belong together, a key that is encrypted or a file that holds something else is told
with its place by `check`, at start and at a reload, and never found out by a client.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections import abc as collections
from typing import Any

import msgspec

from ratelimitd.config import addresses, files, kinds, model, x509
from ratelimitd.config.document import Mapping, Node, quote_path, read_bytes
from ratelimitd.config.reader import Context, Section, Setting


class UnusableError(ValueError):
    """What is wrong with the file that `setting` names."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting


@dataclasses.dataclass(frozen=True)
class _CertificateSection(Section):
    """A pair of files that fit together, with what the certificate says of itself."""

    def read(self, node: Node, context: Context) -> model.Certificate:
        named: model.Certificate = super().read(node, context)
        try:
            facts = inspect(named.certificate, named.key)
        except UnusableError as error:
            inner = node.get(error.setting) if isinstance(node, Mapping) else None
            raise context.at(error.setting).error((inner or node).place, str(error)) from None
        return msgspec.structs.replace(
            named, names=facts.names, expires_s=facts.expires_s, fingerprint=facts.fingerprint
        )


def inspect(certificate: str, key: str) -> x509.Facts:
    """What the certificate says; UnusableError when it cannot be served with this key."""
    pem = read_bytes(certificate, files.LARGEST_CONTENT)
    first = x509.first_certificate(pem)
    if first is None:
        raise UnusableError("certificate", f"{quote_path(certificate)} holds no certificate in PEM")
    if b"PRIVATE KEY-----" not in read_bytes(key, files.LARGEST_CONTENT):
        raise UnusableError("key", f"{quote_path(key)} holds no private key in PEM")
    _try(certificate, key, pem)
    return x509.facts(first)


def _try(certificate: str, key: str, pem: bytes) -> None:
    encrypted = False

    def password() -> str:
        nonlocal encrypted
        encrypted = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password)
    except ssl.SSLError as error:
        if encrypted:
            raise UnusableError(
                "key",
                f"{quote_path(key)} is encrypted, and nobody is there to type its password: "
                "write it without one (openssl pkey -in KEY -out NEW) where only ratelimitd may read it",
            ) from None
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UnusableError(
                "key",
                f"{quote_path(key)} is not the key of the first certificate in {quote_path(certificate)}",
            ) from None
        setting, path = ("key", key) if _is_chain(pem) else ("certificate", certificate)
        raise UnusableError(setting, f"{quote_path(path)} cannot be used: {_words(error)}") from None


def _is_chain(pem: bytes) -> bool:
    """Whether OpenSSL takes these certificates as such."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem.decode("latin-1"))
    except ssl.SSLError:
        return False
    return True


def _words(error: ssl.SSLError) -> str:
    return (error.reason or "it is no PEM").lower().replace("_", " ")


def _authorities(values: dict[str, Any]) -> collections.Iterator[tuple[str, str]]:
    if "ca" in values:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=values["ca"])
        except ssl.SSLError as error:
            yield "ca", f"{quote_path(values['ca'])} holds no certificates in PEM: {_words(error)}"


CERTIFICATE = _CertificateSection(
    model.Certificate,
    (
        Setting("certificate", files.readable(), "Certificate chain in PEM.", required=True),
        Setting("key", files.readable(), "Its private key in PEM.", required=True),
    ),
)

SERVER_TLS = Section(
    model.ServerTls,
    (
        Setting(
            "ca", files.readable(), "Authorities in PEM; without it the system's.", example="/etc/ssl/ca.pem"
        ),
        Setting("verify", kinds.truth(), "Whether the server's certificate is checked."),
        Setting(
            "server_name",
            kinds.text("a host name", convert=addresses.host_name),
            "The name to ask for and to check.",
            example="web.internal",
        ),
    ),
    check=_authorities,
)
