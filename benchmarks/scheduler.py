"""Measure the cost of a run besides its training, compared with Ray Tune, on runs that train nothing."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ablate.data import Corpus, describe, prepare
from ablate.execution.cluster import start_cluster
from ablate.execution.driver import Driver, DriverOptions
from ablate.execution.jobs import record_study
from ablate.execution.placement import local_resources, place
from ablate.execution.progress import Event
from ablate.execution.worker import RunWorker
from ablate.plan import Plan, build_plan
from ablate.study import load_study
from ablate.tracking.folders import StudyFolder
from ablate.tracking.mlflow_mirror import MlflowMirror
from ablate.tracking.mlflow_writer import MlflowWriter
from ablate.training.contract import Outcome
from ablate_model import GPT
from benchmarks.history import add_record_option, append_figures

GRID = """
study: bench-scheduler
data: {{source: text, path: words.txt}}
model: {{d_model: 16, n_layers: 1, n_heads: 2, context_length: 16}}
train: {{steps: 2, batch_size: 1}}
matrix: {{attention: [standard]}}
seeds: {n_runs}
"""


class IdleWorker(RunWorker):
    """A worker that does everything for a run, with all files, except the training."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, train=self._train_nothing)
        self._model: GPT | None = None

    def _train_nothing(self, config: Any, settings: Any, *_: Any, **__: Any) -> Outcome:
        self._model = self._model or GPT(config)
        return Outcome("finished", settings.steps, 0.0, 0, self._model)


@dataclass(frozen=True)
class SchedulerCost:
    """Milliseconds per run, from the end of the first run to the end of the last, so without process start."""

    n_runs: int
    slots: int
    ablate_ms: float
    tune_ms: float

    @property
    def ratio(self) -> float:
        return self.tune_ms / self.ablate_ms


def compare_schedulers(n_runs: int, log: Path) -> SchedulerCost:
    """Send as many empty runs through the driver as through Ray Tune, which reuses actors, in one Ray session."""
    available = local_resources()
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder, start_cluster(None, available, log):
        plan, corpus = _plan(Path(folder), n_runs)
        slots = place(plan.study.resources, [available], None, n_runs).slots
        ours = _time_driver(plan, corpus, StudyFolder(Path(folder) / "runs" / plan.study.name))
        return SchedulerCost(n_runs, slots, ours, _time_tune(n_runs, Path(folder)))


def _plan(folder: Path, n_runs: int) -> tuple[Plan, Corpus]:
    (folder / "words.txt").write_text("one two three " * 1000)
    grid = folder / "grid.yaml"
    grid.write_text(GRID.format(n_runs=n_runs))
    study = load_study(grid)
    return build_plan(study, describe(study.data, folder)), prepare(study.data, folder, folder / "shards")


def _time_driver(plan: Plan, corpus: Corpus, store: StudyFolder) -> float:
    ended: list[float] = []

    def watch(event: Event) -> None:
        if event.kind == "ended":
            ended.append(time.perf_counter())

    record = record_study(plan, "", "")
    store.write_study(record)
    uri = f"sqlite:///{store.mlflow_database}"
    MlflowWriter(uri, record)  # load MLflow and make its database first, which a study does only once
    mirror = MlflowMirror(uri, store, record)
    placement = place(plan.study.resources, [local_resources()], None, len(plan.runs))
    Driver(plan, store, corpus, placement, mirror, watch, DriverOptions(worker_class=IdleWorker)).train(plan.runs)
    mirror.close(0)
    return _ms_per_run(ended)


def _time_tune(n_runs: int, folder: Path) -> float:
    from ray import tune

    ended: list[float] = []

    class Watch(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            ended.append(time.perf_counter())

    trainable: Callable[..., Any] = tune.with_resources(_report_nothing, {"cpu": 1})
    tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(num_samples=n_runs, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0, callbacks=[Watch()]),
    ).fit()
    return _ms_per_run(ended)


def _report_nothing(_config: Any) -> dict[str, float]:
    return {"loss": 0.0}


def _ms_per_run(ended: list[float]) -> float:
    return 1000 * (ended[-1] - ended[0]) / (len(ended) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description=__doc__)
    parser.add_argument("--count", type=int, default=100, metavar="N", help="empty runs per scheduler, at least 2")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_record_option(parser)
    options = parser.parse_args()
    if options.count < 2:
        parser.error("--count: at least 2 runs are needed")
    cost = compare_schedulers(options.count, Path(tempfile.gettempdir()) / "ablate-bench-ray.log")
    if options.record:
        append_figures("scheduler", asdict(cost))
    if options.json:
        print(json.dumps(asdict(cost) | {"ratio": cost.ratio}))
        return
    print(f"{cost.n_runs} empty runs, {cost.slots} at a time; milliseconds per run, without process start")
    print(f"ablate    {cost.ablate_ms:10.2f}")
    print(f"Ray Tune  {cost.tune_ms:10.2f}   {cost.ratio:.1f} times as much")


if __name__ == "__main__":
    main()
