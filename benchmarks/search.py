"""Compare samplers with the same number of trials, and measure the time of a trial besides its training."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

from ablate.data import Corpus, CorpusInfo, describe, prepare
from ablate.execution.jobs import make_job
from ablate.execution.placement import Placement
from ablate.execution.worker import RunWorker
from ablate.plan import Run
from ablate.plan.plan import Arm
from ablate.search.arm_search import ARM, best_of
from ablate.search.pose import load_search, pose
from ablate.search.problem import Problem
from ablate.search.trials import Trials
from ablate.tracking.curve import CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import Status

SEARCH = """
search: bench-search
data: {{source: python-stdlib, tokenizer: bytes}}
model: {{d_model: 32, n_layers: 2, n_heads: 2, context_length: 32}}
train: {{steps: {steps}, batch_size: 16, learning_rate: 1.6e-2, eval_every: {steps}, eval_tokens: 8192}}
arm: {{normalization: ngpt}}
space:
  train.learning_rate: {{low: 5.0e-4, high: 5.0e-1, log: true}}
  model.normalization.alpha_attn.init: {{low: 0.005, high: 0.5, log: true}}
  model.normalization.alpha_mlp.init: {{low: 0.005, high: 0.5, log: true}}
  model.normalization.s_qk.init: {{low: 0.05, high: 4.0, log: true}}
  model.normalization.s_uv.init: {{low: 0.05, high: 4.0, log: true}}
  model.normalization.s_z.init: {{low: 0.2, high: 20.0, log: true}}
trials: {trials}
sampler: {{name: {sampler}, seed: {seed}}}
"""
SAMPLERS = ("TPESampler", "RandomSampler")
MAX_SEED_STEP = 10_000  # seeds between two repetitions, so that no sampler repeats draws of another one


@dataclass(frozen=True)
class SamplerResult:
    """`confirmed` has the mean loss (nats), over fresh seeds, of the best configuration of each repetition."""

    sampler: str
    confirmed: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.confirmed) / len(self.confirmed)


@dataclass(frozen=True)
class SearchCost:
    """Milliseconds per trial to ask and tell, without training: ablate with its files, and only Optuna."""

    n_trials: int
    ablate_ms: float
    optuna_ms: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_samplers(trials: int, steps: int, repetitions: int, console: Console) -> list[SamplerResult]:
    """Search several times with each sampler, then train each best configuration and the defaults again.

    A configuration is confirmed by two runs. Their seeds are the same for all configurations, and no trial used them.
    """
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as place:
        folder = Path(place)
        problem = _pose(folder, trials, steps, SAMPLERS[0], 0)
        corpus = prepare(problem.study.data, folder, folder / "shards")
        results, default = [], float("nan")
        for sampler in SAMPLERS:
            confirmed = []
            for repetition in range(repetitions):
                problem = _pose(folder, trials, steps, sampler, MAX_SEED_STEP * repetition)
                store = StudyFolder(folder / f"{sampler}-{repetition}")
                found = _search(problem, store, corpus)
                (search,) = found.searches
                best = best_of(search)
                assert best is not None
                confirmed.append(_confirm(found, store, corpus, found.arms[best.user_attrs[ARM]]))
                default = _confirm(found, store, corpus, found.default_of(search))
                console.print(f"{sampler} {repetition + 1}: {confirmed[-1]:.4f}", style="dim", highlight=False)
            results.append(SamplerResult(sampler, tuple(confirmed)))
        return [*results, SamplerResult("defaults", (default,))]


def measure_overhead(n_trials: int) -> SearchCost:
    """The median time to ask and tell a trial that trains nothing.

    The comparison does the same with only Optuna, with the same sampler, space and kind of storage.
    """
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as place:
        folder = Path(place)
        problem = _pose(folder, n_trials, 10, SAMPLERS[0], 0)
        store = StudyFolder(folder / "search")
        trials = Trials(problem, store)
        _pretend(store, trials.plan.runs[0])
        trials.tell(trials.plan.runs[0], "finished")
        ours = []
        while True:
            start = time.perf_counter()
            runs = trials.draw()
            asked_s = time.perf_counter() - start
            if not runs:
                break
            _pretend(store, runs[0])
            start = time.perf_counter()
            trials.tell(runs[0], "finished")
            ours.append(asked_s + time.perf_counter() - start)
        (search,) = trials.searches
        alone = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / "alone.log"))), sampler=search.study.sampler
        )
        theirs = []
        for index in range(n_trials - 1):
            start = time.perf_counter()
            trial = alone.ask()
            search.space.suggest(trial)
            alone.tell(trial, 1.0 / (1 + index))
            theirs.append(time.perf_counter() - start)
        return SearchCost(n_trials, 1000 * median(ours), 1000 * median(theirs))


def _pose(folder: Path, trials: int, steps: int, sampler: str, seed: int) -> Problem:
    file = folder / "search.yaml"
    file.write_text(SEARCH.format(trials=trials, steps=steps, sampler=sampler, seed=seed))
    search = load_search(file)
    info: CorpusInfo = describe(search.data, folder, folder / "shards")
    return pose(search, info)


def _search(problem: Problem, store: StudyFolder, corpus: Corpus) -> Trials:
    trials = Trials(problem, store)
    runs: Sequence[Run] = trials.plan.runs
    while runs:
        for run in runs:
            _train(trials, store, corpus, run)
            trials.tell(run, "finished")
        runs = trials.draw()
    return trials


def _confirm(trials: Trials, store: StudyFolder, corpus: Corpus, arm: Arm) -> float:
    fresh = trials.problem.confirm.fresh_seeds(trials.problem.seeds)[:2] if trials.problem.confirm else ()
    runs = [Run(f"confirm-{arm.name.rpartition('=')[2]}-{seed}", arm, seed) for seed in fresh]
    losses = []
    for run in runs:
        _train(trials, store, corpus, run)
        losses.append(store.run(run.run_id).last_validation())
    known = [float("inf") if loss is None else loss for loss in losses]
    return sum(known) / len(known)


def _train(trials: Trials, store: StudyFolder, corpus: Corpus, run: Run) -> None:
    placement, manifest = Placement(1, 0, 1), dict[str, Any]()
    RunWorker(store.path, corpus, placement).train(make_job(trials.plan, run, placement, manifest))


def _pretend(store: StudyFolder, run: Run) -> None:
    """Write the files of a finished run that trained nothing."""
    folder = store.run(run.run_id)
    folder.path.mkdir(parents=True)
    with CurveWriter(folder.curve) as curve:
        curve.append({"step": run.arm.train.steps, "val_loss": run.arm.train.learning_rate})
        extent = (curve.n_bytes, curve.crc32)
    steps = run.arm.train.steps
    folder.write_status(Status("finished", step=steps, n_steps=steps, curve=extent))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--trials", type=int, default=24, metavar="N", help="trials per search, at least 2")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="steps per trial")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="searches per sampler")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="trials that train nothing, at least 2")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if min(options.trials, options.count) < 2 or min(options.steps, options.repetitions) < 1:
        parser.error("--trials and --count must be at least 2, --steps and --repetitions at least 1")
    cost = measure_overhead(options.count)
    results = compare_samplers(options.trials, options.steps, options.repetitions, Console(stderr=True))
    if options.json:
        losses = {result.sampler: result.confirmed for result in results}
        asked = {"trials": options.trials, "steps": options.steps, "confirmed": losses}
        print(json.dumps(asked | cost.to_dict()))
        return
    print(f"{options.trials} trials of {options.steps} steps, {options.repetitions} searches per sampler")
    print("validation loss of the best configuration, trained again")
    for result in results:
        each = " ".join(f"{loss:.4f}" for loss in result.confirmed)
        print(f"{result.sampler:14} {result.mean:.4f}   {each}")
    print(f"a trial that trains nothing: {cost.ablate_ms:.1f} ms; with only Optuna: {cost.optuna_ms:.1f} ms")


if __name__ == "__main__":
    main()
