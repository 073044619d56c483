"""The benchmarks of the tool, at small sizes that show that they measure what they claim."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ablate.cli import app
from ablate.tracking.folders import StudyFolder
from benchmarks import house
from benchmarks.gaps import combine, measure_gaps
from benchmarks.history import append_figures
from benchmarks.mirror import measure_mirror
from benchmarks.plan import measure_plan
from benchmarks.program import measure_flood
from benchmarks.program import measure_overhead as measure_program
from benchmarks.report import bench_report
from benchmarks.scale import measure_driver, measure_files, write_grid
from benchmarks.search import compare_samplers, measure_overhead
from benchmarks.verdict_cost import REPORT, describe_cost
from foreign_runs import Experiments

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_samplers_are_compared_at_equal_trials_by_losses_trained_anew() -> None:
    results = {result.sampler: result for result in compare_samplers(3, 2, 2, Console(quiet=True))}
    assert list(results) == ["TPESampler", "RandomSampler", "defaults"]
    assert len(results["TPESampler"].confirmed) == 2
    assert len(set(results["TPESampler"].confirmed)) == 2  # the repetitions draw different settings
    assert all(1 < loss < 10 for result in results.values() for loss in result.confirmed)


@pytest.mark.slow
def test_the_overhead_is_told_beside_optuna_alone() -> None:
    cost = measure_overhead(5)
    assert 0 < cost.optuna_ms < 1000
    assert 0 < cost.ablate_ms < 1000


@pytest.mark.slow
def test_the_cost_of_a_program_is_told_beside_the_program_alone() -> None:
    cost = measure_program(2)
    assert 0 < cost.alone_s < cost.run_s < cost.alone_s + 10
    flood = measure_flood(20, 100)
    assert 0.1 < flood.alone_s < flood.run_s + 1
    assert flood.growth_bytes < 2e7
    assert 4e6 < flood.log_bytes < 6e6


@pytest.mark.slow
@pytest.mark.parametrize("n_stacked", [1, 2])
def test_the_gaps_of_a_run_add_up_to_what_its_steps_leave(tmp_path: Path, n_stacked: int) -> None:
    runs = measure_gaps(tmp_path, 1, steps=20, n_stacked=n_stacked)
    assert len(runs) == 2
    for run in runs:
        assert 0 < run.steps_s < run.whole_s
        assert sum(run.gaps_s.values()) == pytest.approx(run.around_s)
        assert min(run.gaps_s[name] for name in ("evaluations", "checkpoints", "status", "build the model")) > 0
    assert combine(runs).whole_s > 0


def test_the_cost_of_verdicts_counts_shared_cards_by_their_shares_and_only_measured_gaps(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    history.write_text("")
    assert "none yet" in list(describe_cost(REPORT, history))[-1]
    figures = {
        "one run, around_s": 1.0,
        "one run, whole_s": 4.0,
        "stack of 8, cold, whole_s": 30.0,
        "stack of 8, whole_s": 16.0,
    }
    history.write_text(json.dumps({"benchmark": "gaps", "machine": {"gpu": "H200"}, "figures": figures}))
    text = "\n".join(describe_cost(REPORT, history))
    assert "98 runs      949 s" in text  # 72 of the trials had a quarter of a card
    assert "replayed runs, measured gaps: 1096 s, 0.65 of that" in text  # 956 s of steps, and 1 s around each of 140
    assert "halving at 0.33, 2 go on: 0.52 of a trial's steps, 0 of 14 arms lose their best" in text
    assert "0.50 of the time of 8 single runs" in text and "not stacked: attention=selective" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_bench_measures_a_study_of_the_size_asked_for(experiments: Experiments, tmp_path: Path) -> None:
    result = bench_report(tmp_path, n_runs=8, n_points=50, mlflow_uri=experiments.uri)
    assert (result.n_runs, result.n_points) == (8, 50)
    assert min(result.read_s, result.numbers_s, result.report_s) > 0
    assert result.page_bytes > 10**6 and result.peak_memory_bytes > 10**7
    assert result.mlflow is not None
    assert result.mlflow.n_points == 8 * 50
    assert min(result.mlflow.files_s, result.mlflow.statement_s, result.mlflow.client_s) > 0


@pytest.mark.slow
def test_every_benchmark_that_the_page_names_can_be_run_from_a_checkout() -> None:
    named = set(re.findall(r"-m (benchmarks\.\w+)", (ROOT / "benchmarks" / "README.md").read_text()))
    scripts = {f"benchmarks.{path.stem}" for path in (ROOT / "benchmarks").glob("*.py") if "main()" in path.read_text()}
    assert named == scripts
    for name in sorted(named):
        shown = subprocess.run(
            [sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert shown.stdout.startswith(f"usage: python -m {name}")


def test_the_command_has_no_verbs_that_measure_the_tool_itself() -> None:
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert "bench" in verbs
    assert not [verb for verb in verbs if verb.startswith("bench") and verb != "bench"]
    assert not list((ROOT / "ablate").rglob("synthetic.py"))


def test_the_circle_of_imports_and_the_files_of_an_addition_are_counted(tmp_path: Path) -> None:
    files = {
        "ablate/one.py": "from ablate.two import x",
        "ablate/two.py": "import ablate.three\nx = {'swish': 'mlps:Swish'}",
        "ablate/three.py": "def call():\n    from ablate import one",
        "model/mlps.py": "from . import other\nclass Swish: ...",
        "model/other.py": "from .mlps import Swish",
    }
    trees = {tmp_path / name: ast.parse(text) for name, text in files.items()}
    assert house.list_touched(trees, ("swish", "Swish"), tmp_path) == [
        "ablate/two.py",
        "model/mlps.py",
        "model/other.py",
    ]
    assert house.count_circle(trees, tmp_path, is_whole=False) == 2
    assert house.count_circle(trees, tmp_path, is_whole=True) == 3


def test_figures_are_added_to_the_history_with_commit_and_machine(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    for arms in (200, 300):
        append_figures("plan", measure_plan(arms), history)
    first, second = map(json.loads, history.read_text().splitlines())
    assert [line["figures"]["n_arms"] for line in (first, second)] == [200, 300]
    assert first["figures"]["cpu_s"] > 0
    assert first["commit"] and first["machine"]["cores"]


@pytest.mark.slow
def test_a_large_study_is_simulated_by_runs_that_write_all_their_files(tmp_path: Path) -> None:
    store = StudyFolder(tmp_path / "runs" / "bench-scale")
    grid = write_grid(tmp_path, 200, n_seeds=1)
    figures = measure_driver(grid, store, workers=50, sleep_s=0.2)
    assert (figures["n_runs"], figures["workers"]) == (200, 50)
    assert 0 < figures["driver_cpu_ms_per_run"] < 1000
    assert measure_files(store, 200)["inodes_per_run"] == pytest.approx(5, abs=0.1)
    states = {store.peek_state(run.run_id) for run in store.read_study().runs}
    assert states == {"finished"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_rows_that_the_mirror_writes_are_those_of_the_curves(experiments: Experiments, tmp_path: Path) -> None:
    figures = measure_mirror(tmp_path, 10, 20, experiments.uri)
    assert figures["n_runs"] == 9
    assert figures["rows"] == 9 * (20 * 12 - 10)  # 12 columns besides the step, and every second evaluation
