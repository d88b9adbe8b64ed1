"""Certificates for Dask's TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificate(directory: Path) -> dict[str, str]:
    """Make a key and a self-signed certificate, with OpenSSL.

    Returns the environment in which Dask's processes use both, and nothing but TLS.
    """
    key, certificate = str(directory / "key.pem"), str(directory / "certificate.pem")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=daskref-tests", "-keyout", key, "-out", certificate,
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    environment = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
        f"{tls}CA_FILE": certificate,
    }
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        environment[f"{tls}{role}__CERT"] = certificate
        environment[f"{tls}{role}__KEY"] = key
    return environment
