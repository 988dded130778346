"""The certificate by which the store's parts know each other.

    python -m orchestrator.sandbox.store.certificate FOLDER

Made at the first start; the key that signed it is not kept.
"""

import ipaddress
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.sandbox.places import write_secret

DAYS = 36_500


def make(folder: Path) -> None:
    """Write ca.crt, store.key and, the last, store.crt."""
    authority, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    loopback = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    root = _begin(authority).add_extension(x509.BasicConstraints(True, None), critical=True)
    leaf = (
        _begin(own)
        .add_extension(x509.SubjectAlternativeName(loopback), critical=False)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    for name, content in {
        "ca.crt": root.sign(authority, hashes.SHA256()).public_bytes(pem),
        "store.key": own.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain),
        "store.crt": leaf.sign(authority, hashes.SHA256()).public_bytes(pem),
    }.items():
        write_secret(folder / name, content.decode())


def _begin(key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sandbox store")])
    began = datetime.now(UTC) - timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + timedelta(days=DAYS))
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
