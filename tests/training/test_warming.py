"""`ablate warm` compiles what the runs of a grid will call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.training import warming
from ablate.training.warming import Kind, find_kinds, warm_kind, warm_kinds
from ablate_model import ModelConfig

RUN = """
import json, sys
from pathlib import Path
import torch
from ablate.data import describe, prepare
from ablate.execution.jobs import make_job
from ablate.execution.worker import RunWorker
from ablate.plan import build_plan
from ablate.study import load_study
from in_process import ONE_CPU

grid, folder = Path(sys.argv[1]), Path(sys.argv[2])
study = load_study(grid, ["train.compile=true"])
plan = build_plan(study, describe(study.data, folder))
worker = RunWorker(folder / "study", prepare(study.data, folder, folder / "shards"), ONE_CPU)
assert worker.train(make_job(plan, plan.runs[0], ONE_CPU, {})) == "finished"
print(json.dumps(torch._dynamo.utils.counters["inductor"]))
"""


@pytest.fixture
def kind(model_config: ModelConfig, make_train_config: Callable) -> Kind:
    return Kind(("a",), model_config, make_train_config(compile=True))


def test_arms_that_share_compiled_code_are_one_kind(model_config, make_train_config):
    train = make_train_config(compile=True)
    wide = ModelConfig(d_model=32, n_layers=1, n_heads=2, vocab_size=32, context_length=12)
    arms = {
        "a": (model_config, train),
        "other rate": (model_config, train.model_copy(update={"learning_rate": 0.1})),
        "wide": (wide, train),
        "eager": (model_config, make_train_config()),
    }
    assert [kind.arms for kind in find_kinds(arms, 1)] == [("a", "other rate"), ("wide",)]


@pytest.mark.parametrize("n_stacked", [1, 2])
def test_everything_that_a_run_calls_is_called(kind, monkeypatch, n_stacked):
    called = []

    def watch(cls, name):
        whole = getattr(cls, name)

        def calling(self, *arguments, **options):
            called.append(name)
            return whole(self, *arguments, **options)

        monkeypatch.setattr(cls, name, calling)

    watch(warming.Training, "warm_up")
    watch(warming.Training, "step")
    watch(warming.LanguageModelling, "measure")
    eager = kind.train.model_copy(update={"compile": False})
    seconds, error = warm_kind(Kind(kind.arms, kind.model, eager, n_stacked), "cpu", 1)
    assert (error, called) == ("", ["warm_up", "step", "step", "measure"])
    assert seconds > 0


@pytest.mark.slow
def test_one_kind_that_fails_leaves_the_others(kind):
    eager = kind.train.model_copy(update={"compile": False})
    broken = Kind(("b",), kind.model, eager.model_copy(update={"weight_decay": None}))
    done = {kind.arms: error for kind, _, error in warm_kinds([broken, Kind(("a",), kind.model, eager)], "cpu", 1, 2)}
    assert done == {("a",): "", ("b",): "ValueError: weight_decay must be resolved before training"}


def test_a_grid_that_compiles_nothing_is_refused(call_ablate, write_grid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call_ablate("warm", write_grid())
    assert code == 2 and "no arm compiles" in err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_finds_all_compiled_code_of_its_kind_in_the_cache(write_grid, tmp_path):
    grid = write_grid(matrix={"normalization": ["prenorm"]}, baseline=None, resources={"cpus": 1})
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        "PYTHONPATH": os.pathsep.join([str(root / "tests"), *filter(None, sys.path)]),
    }
    command = [sys.executable, "-m", "ablate", "warm", str(grid), "--set", "train.compile=true", "--json"]
    warmed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert warmed.returncode == 0, warmed.stderr
    assert json.loads(warmed.stdout)[0]["error"] == ""
    run = [sys.executable, "-c", RUN, str(grid), str(tmp_path)]
    result = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    counters = json.loads(result.stdout.splitlines()[-1])
    assert counters["fxgraph_cache_hit"] > 0
    assert counters.get("fxgraph_cache_miss", 0) == 0
