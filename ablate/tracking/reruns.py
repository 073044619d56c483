"""Where further runs of a run id ended: `reruns.json` in the folder of the run that counts.

Kernels of a GPU may add up in any order, so two runs of one id can end at different losses. A study keeps the first of
them, and of the others only where they ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.errors import RecordError
from ablate.tracking.curve import read_backwards
from ablate.tracking.json_files import read_json, write_json
from ablate.tracking.study_record import Record, Status

RERUNS = "reruns.json"
MAX_RERUNS = 1000  # per run


@dataclass(frozen=True)
class Rerun(Record):
    """The end of a further run: its state, its step, and the numbers in the last line of its curve.

    `curve` is the length (bytes) and CRC-32 of that curve, which tells reruns apart. `deterministic` is None if the
    manifest does not say whether the run used only deterministic algorithms.
    """

    curve: tuple[int, int | None]
    state: str
    step: int
    values: Mapping[str, float]
    device: str = ""
    deterministic: bool | None = None


def read_end(folder: Path, extent: tuple[int, int | None]) -> Rerun:
    """Read where the run in a folder with status, manifest and curve ended."""
    status = Status.from_dict(read_json(folder / "status.json"), "status.json")
    manifest = read_json(folder / "manifest.json")
    manifest = manifest if isinstance(manifest, Mapping) else {}
    line: Mapping[str, Any] = next(read_backwards(folder / "curve.jsonl"), {})
    numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
    values = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
    device, mode = manifest.get("device"), manifest.get("deterministic")
    name = device.get("name") if isinstance(device, Mapping) else None
    return Rerun(extent, status.state, status.step, values, str(name or ""), mode if isinstance(mode, bool) else None)


def read_reruns(folder: Path) -> tuple[Rerun, ...]:
    """Read the reruns of a run; none if it has no such file. Raises `RecordError` if the file is damaged."""
    path = folder / RERUNS
    if not path.exists():
        return ()
    content = read_json(path)
    listed = content.get("reruns") if isinstance(content, Mapping) else None
    if not isinstance(listed, list) or len(listed) > MAX_RERUNS:
        raise RecordError(f"{path}: it does not hold a list of at most {MAX_RERUNS} reruns")
    return tuple(Rerun.from_dict(item, str(path)) for item in listed)


def add_reruns(folder: Path, found: Iterable[Rerun], own: tuple[int, int | None]) -> None:
    """Add reruns to those of a run, each once, without the run's `own` curve."""
    known = {rerun.curve: rerun for rerun in (*read_reruns(folder), *found) if rerun.curve != own}
    if known:
        write_json(folder / RERUNS, {"reruns": [known[curve].to_dict() for curve in sorted(known)]})
