"""`<run>/evaluations/KEY.json`: what one evaluation found in one set of a run's weights.

The key is a hash of everything that decides the result, so nothing is evaluated twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from ablate.errors import RecordError
from ablate.files import make_folder, open_regular
from ablate.metrics import Direction
from ablate.tracking.folders import RunFolder
from ablate.tracking.json_files import read_json, write_json
from ablate.tracking.study_record import Record

EVALUATIONS = "evaluations"
SNAPSHOTS = "snapshots"
FILE = re.compile(r"[0-9a-f]{16}\.json")
SNAPSHOT = re.compile(r"([1-9]\d{0,15})\.safetensors")
MAX_RECORD_BYTES = 2**22  # thousands of rows
BLOCK_BYTES = 2**20
MAX_RESULTS = 10_000  # of one run

_CONFIG = ConfigDict(extra="ignore", allow_inf_nan=False)

Level = str | int | float


@dataclass(frozen=True, config=_CONFIG)
class EvaluationRow(Record):
    """The mean of a metric over `n` items of a cell. A cell that was not evaluated has no value, `n` 0 and a note.

    The value of a factor, such as "4 times", is above 0, and averaged over seeds by its logarithm.
    """

    metric: str
    value: float | None
    n: int
    within: Mapping[str, Level] = field(default_factory=dict)
    standard_error: float | None = None
    chance: float | None = None
    note: str = ""
    is_factor: bool = False


@dataclass(frozen=True, config=_CONFIG)
class EvaluationRecord(Record):
    """The rows of an evaluation, or the `error` with which it failed.

    `label` is the name with the knobs that differ from their defaults. `code` is the version of a user's file, and
    `weights` the SHA-256 of the weights, which are those after `step`. `curve` is the length and CRC-32 of the curve
    that the run ended with, so that results of weights that were trained again can be told apart. `metrics` maps each
    metric to its better direction.
    """

    name: str
    label: str
    version: int
    weights: str
    step: int
    metrics: Mapping[str, Direction | None] = field(default_factory=dict)
    rows: tuple[EvaluationRow, ...] = ()
    knobs: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    curve: tuple[int, int] | None = None
    error: str = ""
    took_s: float = 0.0
    ended_at: float = 0.0  # Unix time (s)


def make_key(description: Mapping[str, Any], code: str, weights: str) -> str:
    """Return the identity of a result: 16 hexadecimal digits of a sha256."""
    text = json.dumps([description, code, weights], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_weights(path: Path) -> str:
    """Return the SHA-256 of a file. Raises `OSError` if it cannot be read."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def path_of(run: RunFolder, key: str) -> Path:
    return run.path / EVALUATIONS / f"{key}.json"


def write_evaluation(run: RunFolder, key: str, record: EvaluationRecord) -> None:
    """Write a result. Readers never see half of it. Raises `OSError` if the disk is full."""
    path = path_of(run, key)
    make_folder(path.parent)
    write_json(path, record.to_dict())


def list_evaluations(folder: Path) -> list[Path]:
    """List the files of results in the folder of a run, by name."""
    try:
        return sorted(path for path in (folder / EVALUATIONS).iterdir() if FILE.fullmatch(path.name))
    except OSError:
        return []


def is_evaluation_path(path: PurePosixPath) -> bool:
    """Tell if the path is that of a result, below the folder of a study."""
    return len(path.parts) == 3 and path.parts[1] == EVALUATIONS and FILE.fullmatch(path.name) is not None


def check_size(path: Path) -> None:
    """Raise `RecordError` if a file is larger than any result."""
    with suppress(OSError):  # the next reader says why it cannot be read
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise RecordError(f"{path}: cannot be read: it has more than {MAX_RECORD_BYTES} bytes")


def read_evaluation(path: Path) -> EvaluationRecord:
    """Read a result. Raises `RecordError` if it is missing, larger than any result, or of another form."""
    check_size(path)
    return EvaluationRecord.from_dict(read_json(path), path)


def is_evaluated(run: RunFolder, key: str) -> bool:
    """Tell whether this result exists. One that failed or cannot be read does not count."""
    try:
        return not read_evaluation(path_of(run, key)).error
    except RecordError:
        return False


def snapshot_path(run: RunFolder, step: int) -> Path:
    """The weights after a step, which are kept until they have been evaluated."""
    return run.path / SNAPSHOTS / f"{step}.safetensors"


def list_snapshots(run: RunFolder) -> Iterator[tuple[int, Path]]:
    """Yield (step, path) of the weights that wait to be evaluated, in the order of training."""
    try:
        found = [SNAPSHOT.fullmatch(path.name) for path in (run.path / SNAPSHOTS).iterdir()]
    except OSError:
        return
    for step in sorted(int(match[1]) for match in found if match):
        yield step, snapshot_path(run, step)
