"""Fixtures: one Ray cluster per module, what a driver needs, and a study for tests with processes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import faulty
import pytest
import ray
import yaml
from processes import TIMES, Curves, curves

from ablate.data import Corpus, describe, prepare
from ablate.execution.cluster import SETTINGS, init_local
from ablate.execution.driver import Driver, DriverOptions
from ablate.execution.jobs import find_unfinished, record_study
from ablate.execution.placement import Placement
from ablate.execution.progress import Event, Outcome
from ablate.execution.recovery import STUCK_S, Watchdog
from ablate.plan import Plan, build_plan
from ablate.plan.tasks import describe_corpus
from ablate.study import load_study
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import ArmRecord, RunRecord
from in_process import train_here


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))  # workers import `faulty`
        init_local({"CPU": 2}, log_to_driver=False, logging_level=logging.ERROR)
        yield
        ray.shutdown()


class NoMirror:
    """Replace MLflow, which takes seconds to load and is not tested here."""

    def __init__(self) -> None:
        self.announced: list[tuple[RunRecord, ArmRecord]] = []
        self.withdrawn: list[str] = []

    def note_lines(self, run_id: str) -> None: ...

    def announce(self, run: RunRecord, arm: ArmRecord) -> None:
        self.announced.append((run, arm))

    def withdraw(self, run_id: str) -> None:
        self.withdrawn.append(run_id)

    def note_end(self, run_id: str, state: str) -> None: ...


@dataclass
class Bench:
    """A planned study, trained by a driver in this process, and the events that the driver reported."""

    plan: Plan
    store: StudyFolder
    corpus: Corpus | None
    events: list[Event] = field(default_factory=list)
    mirror: NoMirror = field(default_factory=NoMirror)

    def train(
        self,
        slots: int = 1,
        processes: int = 1,
        observe: Callable[[Event], None] | None = None,
        **options: Any,
    ) -> Outcome:
        def watch(event: Event) -> None:
            self.events.append(event)
            if observe is not None:
                observe(event)

        self.store.write_study(record_study(self.plan, "0", "ablate"))
        placement = Placement(1, 0, slots, processes)
        chosen = DriverOptions(**options)
        driver = Driver(self.plan, self.store, self.corpus, placement, self.mirror, watch, chosen)  # type: ignore[arg-type]
        return driver.train(
            find_unfinished(self.plan, self.store, keeps_cut=lambda _: options.get("stopping") is not None)
        )

    def train_while_one_hangs(self, patch: pytest.MonkeyPatch, processes: int = 1) -> Outcome:
        """Train with workers of which one hangs. The driver's clock only runs until that one is replaced: on a busy
        machine, the first step of any worker takes seconds."""
        now = 0.0

        def clock() -> float:
            nonlocal now
            if (self.store.path / faulty.SUSPENDED).exists() and all(event.kind != "retry" for event in self.events):
                now += 2 * STUCK_S
            return now

        patch.setattr("ablate.execution.driver.Watchdog", partial(Watchdog, clock=clock))
        return self.train(processes=processes, worker_class=faulty.SuspendedWorker)

    def finish(self) -> None:
        """Train what is left in this process, starting from what a killed driver leaves."""
        self.store.write_study(record_study(self.plan, "0", ""))
        train_here(self.plan, find_unfinished(self.plan, self.store), self.store, self.corpus)

    def texts(self) -> str:
        return "\n".join(event.text for event in self.events)

    def curves(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Curves by arm and seed, without values that depend on the clock."""
        return {
            f"{run.arm.name},{run.seed}": [
                {key: value for key, value in record.items() if key not in TIMES}
                for record in read_curve(self.store.run(run.run_id).curve)
            ]
            for run in self.plan.runs
        }


MakeBench = Callable[..., Bench]


@pytest.fixture(scope="module")
def make_bench(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path, ray_cluster: None) -> MakeBench:  # noqa: ARG001
    """A function that plans a tiny study of two arms in a new folder, or in `folder`."""
    place = tmp_path_factory.mktemp("bench")
    grid = place / "grid.yaml"

    def make(folder: Path | None = None, **changes: Any) -> Bench:
        declared = {
            "study": "tiny",
            "data": {"source": "text", "path": str(corpus_file)},
            "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16},
            "train": {"steps": 12, "batch_size": 4, "eval_every": 4, "eval_tokens": 128, "log_every": 2}
            | {"checkpoint_every": 4},
            "matrix": {"attention": ["standard", "differential"]},
            "baseline": {"attention": "standard"},
        }
        declared = {key: value for key, value in (declared | changes).items() if value is not None}
        grid.write_text(yaml.safe_dump(declared))
        study = load_study(grid)
        plan = build_plan(study, describe_corpus(study, place))
        corpus = prepare(study.data, place, place / "shards") if study.is_language_model else None
        store = StudyFolder(folder or tmp_path_factory.mktemp("runs") / "tiny")
        return Bench(plan, store, corpus)

    return make


@pytest.fixture(scope="session")
def process_grid(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Path:
    """Four runs on the CPU that each take at least a second, long enough to be interrupted."""
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    declared = {
        "study": "tiny",
        "question": "Does it survive?",
        "data": {"source": "text", "path": str(corpus_file)},
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16},
        "train": {"steps": 300, "batch_size": 4, "eval_every": 50, "eval_tokens": 128, "log_every": 10}
        | {"checkpoint_every": 25},
        "matrix": {"attention": ["standard", "differential"], "normalization": ["prenorm", "ngpt"]},
        "baseline": {"attention": "standard", "normalization": "prenorm"},
        "resources": {"cpus": 1, "gpus": 0},
    }
    path.write_text(yaml.safe_dump(declared))
    return path


@pytest.fixture(scope="session")
def undisturbed_curves(process_grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Curves:
    """The results of that study, trained in this process without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study = load_study(process_grid)
    plan = build_plan(study, describe(study.data, folder))
    store = StudyFolder(folder / "tiny")
    Bench(plan, store, prepare(study.data, folder, folder / "shards")).finish()
    return curves(store)
