"""The same runs as each program writes them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreign_runs import STEPS, Experiments

START = 1.7e9
SECONDS_PER_STEP = 0.1
TOKENS_PER_STEP = 64


@dataclass(frozen=True)
class LoggedRun:
    """A run: its arm and seed, and its validation losses by step."""

    arm: str
    seed: int
    losses: Mapping[int, float]

    @property
    def name(self) -> str:
        return f"{self.arm}-seed{self.seed}"

    @property
    def rows(self) -> list[dict[str, float]]:
        return [{"step": s, "val_loss": v, "tokens": TOKENS_PER_STEP * s} for s, v in self.losses.items()]


def make_runs() -> list[LoggedRun]:
    """Three seeds of three arms, with losses as in float32, which TensorBoard stores.

    Every ratio and difference varies with the seed, and one run of `new` diverges.
    """
    runs = []
    for seed, noise in enumerate((0.0, 0.03, -0.02)):
        for arm, speed in (("gpt", 1.0), ("fast", 2.0 + 2 * noise), ("new", 1.1 - 3 * noise)):
            losses = {step: float(np.float32(5 + noise - math.log1p(speed * step) / 2)) for step in STEPS}
            if (arm, seed) == ("new", 2):
                losses[160] = math.nan
            runs.append(LoggedRun(arm, seed, losses))
    return runs


def write_csv(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    delimiter: str = ",",
    encoding: str = "utf-8",
    is_quoted: bool = False,
) -> Path:
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        names = list(dict.fromkeys(k for row in rows for k in row))
        writer = csv.DictWriter(
            file, names, delimiter=delimiter, quoting=csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def to_mlflow(runs: Iterable[LoggedRun], experiments: Experiments, name: str) -> None:
    for run in runs:
        tokens = {step: float(TOKENS_PER_STEP * step) for step in run.losses}
        facts = {"arm": run.arm, "seed": run.seed}
        experiments.log(name, run.losses, facts, {"device": "A100"}, metric="val_loss", more={"tokens": tokens})


def to_wandb(runs: Iterable[LoggedRun], folder: Path) -> None:
    """Two charts, one per metric, and the table of runs."""
    runs = list(runs)
    for metric, file in (("val_loss", "wandb_export_1.csv"), ("tokens", "wandb_export_2.csv")):
        rows = []
        for step in STEPS:
            row: dict[str, Any] = {"Step": step}
            for run in runs:
                value = {"val_loss": run.losses, "tokens": {s: TOKENS_PER_STEP * s for s in STEPS}}[metric][step]
                text = "NaN" if math.isnan(value) else value
                row |= {f"run {run.name} - {metric}{end}": text for end in ("", "__MIN", "__MAX")}
            rows.append(row)
        write_csv(folder / file, rows, is_quoted=True)
    write_csv(
        folder / "wandb_export_3.csv",
        [
            {"Name": f"run {run.name}", "State": "finished", "Notes": "-", "Created": "2024", "Runtime": 16}
            | {"arm": run.arm, "seed": run.seed, "device": "A100", "val_loss": run.losses[160]}
            for run in runs
        ],
    )


def to_wandb_history(runs: Iterable[LoggedRun], folder: Path) -> None:
    """What `run.history().to_csv()` writes: an unnamed index, the time, and W&B's own step."""
    for run in runs:
        write_csv(
            folder / f"{run.name}.csv",
            [
                {"": n, "_step": row["step"], "_runtime": row["step"] * SECONDS_PER_STEP, "_timestamp": START + n}
                | {"val_loss": row["val_loss"], "tokens": row["tokens"], "device": "A100"}
                for n, row in enumerate(run.rows)
            ],
        )


def to_tensorboard(runs: Iterable[LoggedRun], folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra ablate-studies[tensorboard]")
    from torch.utils.tensorboard import SummaryWriter

    for run in runs:
        with SummaryWriter(str(folder / run.name)) as writer:
            start = START
            writer.add_hparams({"device": "A100", "lr": 1e-3}, {"final": 1.0})
            for row in run.rows:
                step = int(row["step"])
                time = start + step * SECONDS_PER_STEP
                writer.add_scalar("val_loss", row["val_loss"], step, walltime=time, new_style=run.seed == 1)
                writer.add_scalar("tokens", row["tokens"], step, walltime=time)


def to_trainer_state(runs: Iterable[LoggedRun], folder: Path) -> None:
    """Each run has a log at its end and those of its checkpoints."""
    for run in runs:
        history: list[dict[str, Any]] = []
        for row in run.rows:
            shared = {"step": row["step"], "epoch": row["step"] / 1000}
            history.append({**shared, "loss": row["val_loss"] + 0.1, "num_input_tokens_seen": row["tokens"]})
            history.append({**shared, "eval_loss": row["val_loss"], "eval_runtime": 1.0})
        end = {"step": 160, "epoch": 0.16, "train_loss": 3.0, "train_runtime": 16.0, "total_flos": 1e9}
        state = {"best_metric": None, "global_step": 160, "is_hyper_param_search": False, "max_steps": 160}
        for place, log, step in (
            ("checkpoint-40", history[:8], 40),
            ("checkpoint-160", history, 160),
            ("", history, 160),
        ):
            path = folder / run.name / place / "trainer_state.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                json.dumps({**state, "global_step": step, "log_history": [*log, end] if not place else log})
            )


def to_lightning(runs: Iterable[LoggedRun], folder: Path) -> None:
    """One version per run, without a name, so its hyperparameters name the arm."""
    for n, run in enumerate(runs):
        place = folder / "lightning_logs" / f"version_{n}"
        rows: list[dict[str, Any]] = []
        for row in run.rows:
            step = int(row["step"])
            rows.append(
                {"epoch": 0, "step": step, "train_loss": row["val_loss"] + 0.1, "tokens": row["tokens"], "val_loss": ""}
            )
            rows.append({"epoch": 0, "step": step, "train_loss": "", "tokens": "", "val_loss": row["val_loss"]})
        write_csv(place / "metrics.csv", rows)
        (place / "hparams.yaml").write_text(
            f"model:\n  arm: {run.arm}\nseed: {run.seed}\ndevice: A100\n"
            "path: !!python/object/apply:os.system ['touch pwned']\n"
        )


def to_one_csv(runs: Iterable[LoggedRun], folder: Path) -> None:
    write_csv(folder / "all.csv", [{"arm": run.arm, "seed": run.seed, **row} for run in runs for row in run.rows])


def to_excel_csv(runs: Iterable[LoggedRun], folder: Path) -> None:
    """UTF-16 with semicolons, decimal commas, and names as a person types them."""
    rows = [
        {"Arm": run.arm, "Seed": run.seed, "Step": int(row["step"]), "Val Loss": str(row["val_loss"]).replace(".", ",")}
        | {"Tokens": f"{int(row['tokens']):,}".replace(",", ".")}
        for run in runs
        for row in run.rows
    ]
    write_csv(folder / "all.csv", rows, delimiter=";", encoding="utf-16")


def to_jsonl(runs: Iterable[LoggedRun], folder: Path) -> None:
    folder.mkdir()
    for run in runs:
        lines = [
            json.dumps({"step": row["step"], "eval": {"loss": row["val_loss"]}, "tokens": row["tokens"]})
            for row in run.rows
        ]
        (folder / f"arm={run.arm},seed={run.seed}.jsonl").write_text("\n".join(lines))


def to_parquet(runs: Iterable[LoggedRun], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    folder.mkdir()
    rows = [{"run": run.name, **row} for run in runs for row in run.rows]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "all.parquet")


WRITERS: Mapping[str, Callable[[Iterable[LoggedRun], Path], None]] = {
    "wandb charts": to_wandb,
    "wandb history": to_wandb_history,
    "tensorboard": to_tensorboard,
    "trainer_state": to_trainer_state,
    "lightning": to_lightning,
    "one csv": to_one_csv,
    "excel": to_excel_csv,
    "jsonl": to_jsonl,
    "parquet": to_parquet,
}
CHOSEN: Mapping[str, dict[str, str]] = {
    "lightning": {"arm": "model.arm"},
    "jsonl": {"val_loss": "eval.loss"},
}
"""The names that a user has to give, by format."""

WITH_CLOCK = {"wandb history", "tensorboard"}
