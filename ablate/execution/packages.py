"""Which copies of `ablate` and `ablate_model` are in use, here and on other nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from ablate.errors import ResourceError

NAMES = ("ablate", "ablate_model")


def check_packages() -> None:
    """Raises `ResourceError` if the two packages come from different checkouts: results would mix both."""
    homes = {name: folder.parent for name, folder in _find_folders().items()}
    if len(set(homes.values())) > 1:
        places = " and ".join(f"`{name}` from {home}" for name, home in homes.items())
        raise ResourceError(
            f"two versions of ablate are mixed: Python loads {places}; use the command `ablate` of one environment, "
            "or set PYTHONPATH so that both come from the same place"
        )


def fingerprint() -> str:
    """A hash of the source of both packages."""
    digest = hashlib.sha256()
    for name, folder in _find_folders().items():
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{name}/{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _find_folders() -> Mapping[str, Path]:
    """By name, without importing: `ablate_model` would load torch."""
    specs = {name: find_spec(name) for name in NAMES}
    return {name: Path(spec.origin).resolve().parent for name, spec in specs.items() if spec and spec.origin}
