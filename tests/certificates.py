"""A self-signed certificate, for tests with TLS."""

from __future__ import annotations

import datetime as dt
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest


def skip_without_tls() -> None:
    """Skip the test on PyPy 8 without cryptography, which has no wheels for PyPy 8.

    Other interpreters must have cryptography: without it, the test fails instead of being skipped.
    """
    if sys.implementation.name == "pypy" and sys.implementation.version >= (8,):
        pytest.importorskip("cryptography", reason="PyPy 8 has no TLS: there are no wheels of cryptography for it")


def self_signed(folder: Path, *addresses: str) -> tuple[Path, Path]:
    """Write a certificate, agent.crt, and its key, agent.key, into ``folder``. Return their paths.

    :param addresses: the IP addresses that the certificate is for; without them, it is for the name "agent".
    """
    skip_without_tls()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "agent")])
    now = dt.datetime.now(dt.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )
    if addresses:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address)) for address in addresses])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    certificate_path, key_path = folder / "agent.crt", folder / "agent.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path
