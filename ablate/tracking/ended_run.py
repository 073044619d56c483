"""The files of a run that has ended, and whether they belong together."""

from __future__ import annotations

import os
from pathlib import Path

from ablate.errors import RecordError
from ablate.files import file_crc32, open_regular
from ablate.tracking.curve import read_backwards
from ablate.tracking.folders import RunFolder
from ablate.tracking.json_files import read_json
from ablate.tracking.study_record import ENDED, Status
from ablate.tracking.weights import read_layout

STATUS, CURVE, WEIGHTS = "status.json", "curve.jsonl", "model.safetensors"
CONTENT = ("config.json", "manifest.json", CURVE, STATUS)


def is_present(folder: RunFolder) -> bool:
    """Tell whether the run has ended here, so that it is not replaced."""
    return folder.curve.is_file() and folder.has_ended(folder.read_status())


def went_on(one: Path, other: Path) -> bool:
    """Tell whether a run that was stopped early in the folder `other` ended later in `one`, by itself.

    A trial waits at an early step on one machine, for example, and goes on as a finalist on another."""
    ended, cut = (Status.from_dict(read_json(folder / STATUS), STATUS) for folder in (one, other))
    return cut.is_cut and not ended.is_cut and ended.step > cut.step


def find_extent(curve: Path) -> tuple[int, int | None]:
    """Return the length (bytes) and the CRC-32 of a curve."""
    with open_regular(curve) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        return n_bytes, file_crc32(file, n_bytes)


def check_whole(folder: Path, *, weights: bool) -> None:
    """Raise `RecordError` unless the folder holds the files of a run that has ended."""
    missing = [name for name in CONTENT if not os.path.lexists(folder / name)]
    if missing:
        raise RecordError(f"it has no {missing[0]}")
    for name in ("config.json", "manifest.json"):
        if not isinstance(read_json(folder / name), dict):
            raise RecordError(f"{name} does not hold a mapping")
    status = Status.from_dict(read_json(folder / STATUS), STATUS)
    if status.state not in ENDED:
        raise RecordError(f"it is {status.state}, so it has no result to merge")
    if status.curve not in (None, find_extent(folder / CURVE)):
        raise RecordError("its curve is not the one that it ended with")
    last = next(read_backwards(folder / CURVE), {"step": -1})["step"]
    if status.curve is None and not (last == status.step or (status.is_cut and 0 <= last < status.step)):
        raise RecordError(f"its curve does not end at step {status.step}, where the run did")
    if weights and os.path.lexists(folder / WEIGHTS):
        read_layout(folder / WEIGHTS)
