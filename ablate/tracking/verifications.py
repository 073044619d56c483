"""`verifications/*.json` beside a report: what fresh seeds say about its verdicts.

`ablate verify` writes these files, and reports and leaderboards show them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ablate.errors import RecordError
from ablate.files import make_folder, write_atomic
from ablate.tracking.json_files import read_json

VERIFICATIONS = "verifications"

Replication = Literal["confirmed", "refuted", "undecided"]
Size = Literal["as published", "smaller", "larger", "unknown"]


class Entry(BaseModel):
    """A part of the file. The text below a field describes it."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, extra="ignore", allow_inf_nan=False)


class Measured(Entry):
    """The difference of an arm's final values from its baseline's, with its verdict."""

    verdict: Literal["better", "worse", "equivalent", "undecided"]
    """The verdict on the arm."""
    is_small: bool
    """Whether the difference is shown to be smaller than the smallest effect of interest."""
    estimate: float
    """Arm minus baseline, the mean over pairs of runs."""
    low: float | None
    """Lower end of the simultaneous 95 % interval; null if one pair gives none."""
    high: float | None
    """Its upper end."""
    n_pairs: int
    """Pairs of runs, or runs of the arm if nothing is paired."""
    method: str
    """The test; empty without an interval."""


class VerifiedArm(Entry):
    """A published verdict, and what fresh seeds say about it."""

    arm: str
    """Name of the arm in the report."""
    label: str
    """Its short name."""
    baseline: str
    """Name of the arm that it is compared with."""
    identity: str
    """Hash of everything except the seed that decides the results of the arm."""
    outcome: Replication
    """Whether the published verdict is confirmed, refuted or undecided."""
    reason: str
    """Why, in a sentence."""
    size: Size
    """Whether the fresh interval overlaps the published one (as published), or is closer to 0 (smaller) or farther
    from it (larger)."""
    published: Measured
    """The published difference."""
    fresh: Measured | None
    """The difference at the fresh seeds; null if no pair of runs has ended."""


class VerifiedRun(Entry):
    """A run with a fresh seed."""

    run_id: str
    """Hash of everything that decides the result."""
    arm: str
    """Name of the arm."""
    seed: int
    """Its seed."""
    state: str
    """Its state, such as finished or diverged."""
    value: float | None
    """Final value of the metric; null unless the run was trained to its end."""


class Change(Entry):
    """Something that differs between the published runs and the fresh ones."""

    what: str
    """What differs, such as device or torch."""
    published: str
    """Its value in the report; empty if it is not recorded."""
    here: str
    """Its value in the fresh runs; empty if it is not known."""


class Verification(Entry):
    """A published report, checked with fresh seeds."""

    study: str
    """Name of the study."""
    at: str
    """UTC time of the last fresh result."""
    metric: str
    """The metric by which arms are compared."""
    direction: Literal["lower", "higher"]
    """Its better direction."""
    smallest_effect: float | None
    """The smallest difference that matters; null if it is not known."""
    data_hash: str
    """Hash of the data, which is the same as in the report; of several hashes, all, joined by commas."""
    seeds: tuple[int, ...]
    """The fresh seeds. The report used none of them."""
    looks: tuple[int, ...]
    """Numbers of seeds with which results were seen before more were added. Each is a further chance of an error."""
    is_complete: bool
    """Whether every run has ended."""
    differences: tuple[Change, ...]
    """What differs between the published runs and the fresh ones, such as devices and versions."""
    arms: tuple[VerifiedArm, ...]
    """The verdicts that were checked. Their intervals hold for all of them together."""
    runs: tuple[VerifiedRun, ...]
    """The fresh runs."""

    @property
    def name(self) -> str:
        """The name of its files: `seeds-5-7` for the seeds 5, 6 and 7."""
        return f"seeds-{min(self.seeds)}-{max(self.seeds)}"


def read_verification(path: Path) -> Verification:
    """Read one file. Raises `RecordError`, naming it, if it is not a verification."""
    try:
        return Verification.model_validate(read_json(path))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise RecordError(f"{path}: this is not a verification: {key}: {problem['msg']}") from None


def read_verifications(folder: Path) -> Mapping[Path, Verification]:
    """Read all verifications beside a report, in the order of their seeds. Raises `RecordError` for a damaged file."""
    found = {path: read_verification(path) for path in sorted((folder / VERIFICATIONS).glob("*.json"))}
    return dict(sorted(found.items(), key=lambda item: (item[1].seeds, item[0].name)))


def write_verification(made: Verification, text: str, folder: Path) -> Path:
    """Write the file and its Markdown `text` into a folder, and return the path of the file.

    Earlier files that hold a part of these runs are replaced. A file with other runs of the same seeds stays, and this
    one gets another name. Raises `OSError` if the folder cannot be written.
    """
    make_folder(folder)
    values = {(run.run_id, run.value) for run in made.runs}
    earlier = {path: read_verification(path) for path in sorted(folder.glob("*.json"))}
    for path, other in list(earlier.items()):
        if {(run.run_id, run.value) for run in other.runs} <= values:
            path.unlink()
            path.with_suffix(".md").unlink(missing_ok=True)
            del earlier[path]
    path, n = folder / f"{made.name}.json", 1
    while path in earlier:
        n += 1
        path = folder / f"{made.name}-{n}.json"
    write_atomic(path, (made.model_dump_json(indent=1) + "\n").encode())
    write_atomic(path.with_suffix(".md"), text.encode())
    return path
