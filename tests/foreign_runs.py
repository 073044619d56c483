"""Runs in MLflow as any training code logs them, with a plain MlflowClient into SQLite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STEPS = (0, 10, 20, 40, 80, 160)
SLOW = {step: 5 - math.log1p(step) / 2 for step in STEPS}
FAST = {step: 5 - math.log1p(2 * step) / 2 for step in STEPS}


class Experiments:
    """An MLflow to log runs into: a database if the path ends in .db, otherwise a folder of files."""

    def __init__(self, path: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.uri = f"sqlite:///{path}" if path.suffix == ".db" else path.as_uri()
        self.client = MlflowClient(self.uri)
        self.client.create_experiment("neighbour")

    def log(
        self,
        experiment: str,
        curve: Mapping[int, float] | None,
        tags: Mapping[str, Any] = {},
        params: Mapping[str, Any] = {},
        status: str = "FINISHED",
        metric: str = "val/loss",
        more: Mapping[str, Mapping[int, float]] = {},
        step_ms: int = 100,
    ) -> str:
        from mlflow.entities import Metric, Param

        found = self.client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self.client.create_experiment(experiment)
        run = self.client.create_run(experiment_id, tags={key: str(value) for key, value in tags.items()})
        start = run.info.start_time
        metrics = [
            Metric(name, value, start + step_ms * step, step)
            for name, points in {metric: curve or {}, **more}.items()
            for step, value in points.items()
        ]
        listed = [Param(key, str(value)) for key, value in params.items()]
        self.client.log_batch(run.info.run_id, metrics=metrics, params=listed)
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status)
        return str(run.info.run_id)

    def pair(self, experiment: str, seeds: int = 3, **changes: Any) -> None:
        """Log two arms, the second twice as fast, whose seeds differ by an offset."""
        for seed in range(seeds):
            for arm, curve in (("gpt", SLOW), ("new", FAST)):
                shifted = {step: loss + seed / 100 for step, loss in curve.items()}
                self.log(experiment, shifted, {"arm": arm, "seed": seed}, **changes)
