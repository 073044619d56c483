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
    """Return the commit of the checkout that tracks `folder`.

    Empty for an installed package, also if its environment lies inside another project's repository.
    """

    def git(*command: str) -> str:
        run = ["git", "-C", str(folder), *command]
        return subprocess.run(run, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):
            return {}
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}
