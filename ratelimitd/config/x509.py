"""What a certificate says of itself: its names, its last day, its fingerprint; read from PEM.

Only as much of DER (X.690) is read as leads to these three. Whether the certificate is any good, OpenSSL
has said before this is asked.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import hashlib
import re
from collections.abc import Iterator
from typing import Final

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----")
_VERSION, _EXTENSIONS = 0xA0, 0xA3  # tags of the optional parts of TBSCertificate (RFC 5280, 4.1)
_UTC_TIME: Final = 0x17
_DNS_NAME: Final = 0x82  # in a GeneralName (RFC 5280, 4.2.1.6)
_SUBJECT_ALTERNATIVE_NAME: Final = b"\x55\x1d\x11"  # 2.5.29.17


@dataclasses.dataclass(frozen=True)
class Facts:
    """`names` are DNS names in lower case, `*.` included; `expires_s` is in seconds since 1970."""

    names: tuple[str, ...]
    expires_s: int
    fingerprint: str  # SHA-256 of the certificate, in hex


def first_certificate(pem: bytes) -> bytes | None:
    """The first certificate of a chain, in DER: the one that the key belongs to."""
    found = _PEM.search(pem)
    return base64.b64decode(found[1]) if found else None


def facts(der: bytes) -> Facts:
    """ValueError when this is no certificate."""
    try:
        (_, certificate), *_ = _items(der)
        (_, body), *_ = _items(certificate)
        fields = [field for field in _items(body) if field[0] != _VERSION]
        _, validity = fields[3]  # behind serial number, algorithm and issuer
        _, (tag, last) = _items(validity)
        extensions = next((content for tag, content in fields if tag == _EXTENSIONS), None)
        names = tuple(_names(extensions)) if extensions is not None else ()
        return Facts(names, _seconds(tag, last), hashlib.sha256(der).hexdigest())
    except (IndexError, StopIteration) as error:
        raise ValueError("it ends too early") from error


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of what follows one another in `data`."""
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        yield tag, data[at : at + length]
        at += length


def _names(extensions: bytes) -> Iterator[str]:
    (_, listed), *_ = _items(extensions)
    for _, extension in _items(listed):
        (_, identifier), *_, (_, value) = _items(extension)
        if identifier == _SUBJECT_ALTERNATIVE_NAME:
            (_, names), *_ = _items(value)
            yield from (name.decode("ascii").lower() for tag, name in _items(names) if tag == _DNS_NAME)


def _seconds(tag: int, text: bytes) -> int:
    """UTCTime has two digits for the year: from 50 on they are of the last century (RFC 5280, 4.1.2.5)."""
    written = text.decode("ascii")
    if tag == _UTC_TIME:
        written = ("19" if written >= "50" else "20") + written
    time = dt.datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=dt.UTC)
    return int(time.timestamp())
