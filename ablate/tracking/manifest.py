"""The software that made a run: versions, and the commit of the code."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ablate

PACKAGES = ("torch", "numpy", "ray", "flash-attn-4", "flash-attn", "triton")


def describe_software() -> dict[str, Any]:
    """Return versions by package, and the commit of the checkout and whether it had uncommitted changes."""
    return {"versions": {"python": platform.python_version(), **_versions()}, **_commit(Path(__file__).parent)}


def _versions() -> dict[str, str]:
    found = {"ablate": ablate.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit(folder: Path) -> dict[str, Any]:
    """Return the commit of the checkout that holds `folder`; empty for an installed package."""
    try:
        git = ["git", "-C", str(folder)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit.stdout.strip(), "dirty": bool(changes.stdout.strip())}
