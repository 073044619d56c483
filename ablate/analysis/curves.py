"""The curves of a study as arrays: what every number of the report is computed from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ablate.errors import RecordError
from ablate.tracking.curve import read_curve
from ablate.tracking.records import ENDED, ArmRecord, Status, StudyRecord
from ablate.tracking.store import Store, read_json

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

CORE_COLUMNS = (
    "step",
    "tokens",
    "flops",
    "wall_s",
    "train_loss",
    "val_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
)
"""What each line of a curve may carry besides the diagnostics of a variant."""

AXES = ("steps", "tokens", "flops", "seconds", "gpu_seconds")
_COLUMN_OF_AXIS = {"steps": "step", "tokens": "tokens", "flops": "flops", "seconds": "wall_s", "gpu_seconds": "wall_s"}


@dataclass(frozen=True, eq=False)
class RunCurve:
    """One run: its state, and its curve as one array a column, nan where a line does not carry the key.

    `columns` always holds all of `CORE_COLUMNS`; steps strictly increase.
    """

    run_id: str
    arm: str
    seed: int
    n_steps: int
    status: Status
    columns: Mapping[str, Floats]
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def last_step(self) -> int:
        steps = self.columns["step"]
        return max(self.status.step, int(steps[-1]) if steps.size else 0)

    @property
    def is_diverged(self) -> bool:
        return self.status.state == "diverged"

    @property
    def has_ended(self) -> bool:
        """Whether its numbers count: it finished or diverged, and was evaluated. The others are marked and left out."""
        return self.status.state in ENDED and self.evaluation_loss.size > 0

    @property
    def is_whole(self) -> bool:
        """Whether it was trained to the end of its budget."""
        return self.status.state == "finished" and self.last_step >= self.n_steps

    @property
    def was_stopped(self) -> bool:
        """Whether a rule cut it before the end of its budget."""
        return self.status.state == "finished" and not self.is_whole

    @property
    def n_gpus(self) -> float:
        """GPUs that the run held, as a number or a fraction; 0 where it ran on a CPU."""
        if device_of(self.manifest).get("kind") != "cuda":
            return 0.0
        gpus = self.manifest.get("gpus")
        return float(gpus) if isinstance(gpus, int | float) and gpus > 0 else 1.0

    def cost(self, axis: str) -> Floats:
        """What was spent up to each line, on one of `AXES`: steps, tokens, FLOPs, s, or GPU s."""
        column = self.columns[_COLUMN_OF_AXIS[axis]]
        return column * self.n_gpus if axis == "gpu_seconds" else column

    def cost_of_evaluations(self, axis: str) -> Floats:
        return self.cost(axis)[self._evaluated]

    @cached_property
    def evaluation_loss(self) -> Floats:
        """The validation losses (nats a token), one an evaluation."""
        return self.columns["val_loss"][self._evaluated]

    @cached_property
    def _evaluated(self) -> NDArray[np.bool_]:
        return np.isfinite(self.columns["val_loss"])

    @property
    def final_loss(self) -> float:
        """The last validation loss (nats a token) of a whole run; nan for any other."""
        return float(self.evaluation_loss[-1]) if self.is_whole and self.evaluation_loss.size else float("nan")

    @property
    def diagnostics(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name not in CORE_COLUMNS)


@dataclass(frozen=True, eq=False)
class Results:
    """A study's record with all of its runs, in the order of the record."""

    record: StudyRecord
    runs: tuple[RunCurve, ...]

    @cached_property
    def arms(self) -> Mapping[str, ArmRecord]:
        return {arm.arm: arm for arm in self.record.arms}

    @cached_property
    def _runs_of_arm(self) -> Mapping[str, tuple[RunCurve, ...]]:
        return {arm: tuple(run for run in self.runs if run.arm == arm) for arm in self.arms}

    def runs_of(self, arm: str) -> tuple[RunCurve, ...]:
        return self._runs_of_arm[arm]

    def ended_runs(self, arm: str) -> tuple[RunCurve, ...]:
        return tuple(run for run in self.runs_of(arm) if run.has_ended)

    def baseline_of(self, arm: str) -> str:
        return self.arms[arm].baseline

    @property
    def compared_arms(self) -> tuple[str, ...]:
        """The arms that are not their own baseline."""
        return tuple(arm.arm for arm in self.record.arms if arm.baseline != arm.arm)

    def frame(self) -> pd.DataFrame:
        """The tidy table of all curves: one row a run and logged step."""
        import pandas as pd

        frames = [
            pd.DataFrame(
                {"arm": run.arm, "seed": run.seed, "run_id": run.run_id, "state": run.status.state, **run.columns}
            )
            for run in self.runs
        ]
        table = pd.concat(
            [frame for frame in frames if len(frame)] or frames[:1] or [pd.DataFrame()], ignore_index=True
        )
        return table.astype({"step": "int64"}) if "step" in table else table


Known = tuple[Status, Mapping[str, Floats], Mapping[str, Any], Mapping[str, Any]]
"""What is known of a run: its status, columns, manifest and config."""


def read_results(store: Store) -> Results:
    """Read the record of a study and all of its runs.

    A line that a crash tore is passed over; a run without a folder is queued. Raises `RecordError` where no study was
    run here, or where a file cannot be read.
    """
    record = store.read_study()
    run_ids = sorted({run.run_id for run in record.runs})
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the parser frees the interpreter's lock
        known = dict(zip(run_ids, pool.map(lambda run_id: _read_run(store, run_id), run_ids), strict=True))
    return assemble(record, known, str(store.record))


def assemble(record: StudyRecord, known: Mapping[str, Known], place: str) -> Results:
    """A study from its record and what is known of each run id.

    Raises `RecordError`, naming the `place`, where the record does not fit together.
    """
    n_steps = {arm.arm: arm.n_steps for arm in record.arms}
    if unknown := sorted({run.arm for run in record.runs} - n_steps.keys()):
        raise RecordError(f"{place}: it has runs of the arm {unknown[0]!r} but no such arm")
    if unknown := sorted({arm.baseline for arm in record.arms} - n_steps.keys()):
        raise RecordError(f"{place}: the baseline {unknown[0]!r} is no arm of this study")
    return Results(
        record,
        tuple(RunCurve(run.run_id, run.arm, run.seed, n_steps[run.arm], *known[run.run_id]) for run in record.runs),
    )


def _read_run(store: Store, run_id: str) -> Known:
    folder = store.run(run_id)
    return folder.read_status(), read_columns(folder.curve), store.read_manifest(run_id), _read_config(folder.config)


def read_columns(path: Path) -> dict[str, Floats]:
    """The numbers of a curve by key, each [line]; nan where a line lacks the key. Empty where there is no file."""
    try:
        block = path.read_bytes()
    except FileNotFoundError:
        block = b""
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error}") from None
    block = block[: block.rfind(b"\n") + 1]
    columns = _parse_block(block) if block else {}
    if columns is None:  # some line inside is torn: the slow reader knows which lines are whole
        columns = _transpose(read_curve(path))
    return _drop_repeats(complete_columns(columns))


def complete_columns(columns: Mapping[str, Floats]) -> dict[str, Floats]:
    """The columns with all of `CORE_COLUMNS` among them."""
    length = len(columns["step"]) if "step" in columns else 0
    return {name: columns.get(name, np.full(length, np.nan)) for name in (*CORE_COLUMNS, *columns)}


def device_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    device = manifest.get("device")
    return device if isinstance(device, Mapping) else {}


def _parse_block(block: bytes) -> dict[str, Floats] | None:
    import pyarrow as pa
    import pyarrow.json as pa_json

    schema = pa.schema([(name, pa.float64()) for name in CORE_COLUMNS])
    try:
        table = pa_json.read_json(
            pa.BufferReader(block),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=max(len(block), 1)),
            parse_options=pa_json.ParseOptions(explicit_schema=schema),
        )
    except pa.ArrowInvalid:
        return None
    if table["step"].null_count:
        return None
    numeric = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    return {name: table[name].to_numpy().astype(np.float64) for name in numeric}


def _transpose(lines: Sequence[Mapping[str, Any]]) -> dict[str, Floats]:
    names = dict.fromkeys(name for line in lines for name in line)
    return {
        name: np.array(
            [value if isinstance(value := line.get(name), int | float) else np.nan for line in lines], np.float64
        )
        for name in names
    }


def _drop_repeats(columns: dict[str, Floats]) -> dict[str, Floats]:
    """Keep each step once, in order: a line counts where its step passes every step before it."""
    steps = columns["step"]
    if steps.size < 2 or bool(np.all(np.diff(steps) > 0)):
        return columns
    is_new = np.concatenate([[True], steps[1:] > np.maximum.accumulate(steps)[:-1]])
    return {name: column[is_new] for name, column in columns.items()}


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = read_json(path)
    except RecordError:
        return {}
    return config if isinstance(config, dict) else {}
