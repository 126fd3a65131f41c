"""Debian's packages, installed without starting the services that they bring."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
APT_GET = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]


class NotInstalled(Exception):
    """The message says what to do."""


def install(*packages: str) -> None:
    """Install them, as root or with sudo.

    Raises:
        NotInstalled: it cannot be done, or apt failed.
    """
    named = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise NotInstalled(f"this is not Debian; install what is called {named} there, or use compose.yaml")
    as_root = [] if os.getuid() == 0 else ["sudo", "--non-interactive"]
    if as_root and shutil.which("sudo") is None:
        raise NotInstalled(f"only root can do this: apt-get install {named}")
    # dpkg asks this script whether a service may be started, and 101 means no: it would listen on its usual port.
    forbids = not POLICY.exists()
    if forbids:
        _run([*as_root, "sh", "-c", f"printf '#!/bin/sh\\nexit 101\\n' >{POLICY} && chmod 755 {POLICY}"])
    try:
        _run([*as_root, *APT_GET, "update"])
        _run([*as_root, *APT_GET, "install", "-y", "--no-install-recommends", *packages])
    finally:
        if forbids:
            _run([*as_root, "rm", "-f", str(POLICY)])


def _run(command: list[str]) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"  # dpkg wants the sbins
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        check=False,
    )
    if done.returncode:
        raise NotInstalled(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
