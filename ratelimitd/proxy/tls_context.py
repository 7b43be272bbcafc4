"""How TLS is spoken, towards clients and towards web servers: versions, certificates, names, trust.

TLS 1.2 and 1.3, HTTP/1.1 as the only protocol offered, no renegotiation; ciphers are Python's defaults. A
context is made once for a configuration: the files that it names are read then. What is wrong with them is
told by whoever reads the configuration; a StartError here means that they have changed since.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from ratelimitd.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ratelimitd.config import model


def towards_clients(certificates: Sequence[model.Certificate]) -> ssl.SSLContext:
    """Answers with the certificate for the name that a client asks for, else with the first."""
    contexts = [_serving(certificate) for certificate in certificates]
    if len(contexts) == 1:
        return contexts[0]
    by_name: dict[str, ssl.SSLContext] = {}
    for certificate, context in zip(certificates, contexts, strict=True):
        for name in certificate.names:
            by_name.setdefault(name, context)

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name:
            name = name.lower()
            found = by_name.get(name) or by_name.get("*." + name.partition(".")[2])
            if found is not None:
                connection.context = found

    contexts[0].sni_callback = choose
    return contexts[0]


def towards_servers(tls: model.ServerTls) -> ssl.SSLContext:
    """Trusts the authorities of `tls`, or the system's."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca or None)
    except OSError as error:
        raise StartError(f"the authorities in {tls.ca} cannot be used: {words(error)}") from None
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return _common(context)


def server_name(server: model.Server, tls: model.ServerTls) -> str:
    """The name to ask `server` for, and to find in its certificate."""
    return (tls.server_name or server.host).removesuffix(".")


def connection_error(error: ssl.SSLError) -> ConnectionError:
    """What an operator reads of a connection that TLS has ended."""
    return ConnectionError(f"over TLS: {words(error)}")


def words(error: OSError) -> str:
    """The reason of OpenSSL, without its numbers and places."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)


def _serving(certificate: model.Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate.certificate, certificate.key, _no_password)
    except OSError as error:
        raise StartError(
            f"{certificate.certificate} with the key {certificate.key} cannot be used: {words(error)}"
        ) from None
    return _common(context)


def _common(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    """Instead of asking at the terminal."""
    raise StartError("the key of a certificate is encrypted")
