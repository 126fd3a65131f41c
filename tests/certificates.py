"""Certificates for tests of TLS, made by openssl for the occasion."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from dev.servers.base import HOST

NEW = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")


def make_certificates(folder: Path, name: str) -> Mapping[str, Path]:
    """An authority, and a certificate for both ends that it has signed: ``authority``, ``own``, and their ``-key``.

    Args:
        name: who the certificate is for, besides the address of this machine.
    """
    files = {one: folder / f"{one}.pem" for one in ("authority", "authority-key", "own", "own-key")}
    _openssl(*NEW, "-subj", "/CN=authority", "-keyout", files["authority-key"], "-out", files["authority"])
    _openssl(
        *(*NEW, "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{HOST}"),
        *("-addext", "basicConstraints=critical,CA:FALSE", "-CA", files["authority"], "-CAkey", files["authority-key"]),
        *("-keyout", files["own-key"], "-out", files["own"]),
    )
    return files


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
