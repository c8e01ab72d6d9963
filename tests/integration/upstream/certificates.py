"""Certificates for servers of the tests, made when they are needed, so that none can expire in the tree."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A key, and a self-signed certificate of it."""

    cert: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        """Make the TLS settings of a server that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


def make_certificate(directory: Path, name: str, alternative: str, days: int) -> Certificate:
    """Make one by the `openssl` command; a negative number of days makes it expired."""
    key, asked, cert = (directory / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    extension = directory / f"{name}.ext"
    extension.write_text(f"subjectAltName={alternative}\n")
    _openssl("req", *curve, "-keyout", str(key), "-out", str(asked), "-subj", f"/CN={name}")
    signing = ["-signkey", str(key), "-days", str(days), "-extfile", str(extension)]
    _openssl("x509", "-req", "-in", str(asked), "-out", str(cert), *signing)
    return Certificate(cert, key)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=20)
