"""The grids of the published studies at a size for a CPU: tuned, trained in parts, packed, merged and reported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ablate.analysis import read_results
from ablate.data import describe, prepare
from ablate.execution.jobs import record_study
from ablate.plan import Plan, Run
from ablate.report import Report, ReportOptions, load
from ablate.report.offline_page import write_html
from ablate.report.report import make_report
from ablate.report.sections import compose
from ablate.report.summary import summarize
from ablate.search.follow_up import plan_tuned
from ablate.search.pose import pose_tuning
from ablate.search.trials import Trials
from ablate.study import Study, load_study
from ablate.tracking.archive import merge, pack
from ablate.tracking.folders import StudyFolder
from in_process import train_here

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "ablate" / "report" / "summary.schema.json"
TINY = (
    *("model.d_model=48", "model.n_layers=1", "model.d_ff=128", "model.context_length=16"),
    *("train.steps=4", "train.batch_size=2", "train.eval_every=1", "train.log_every=1", "train.eval_tokens=64"),
    *("train.precision=float32", "train.compile=false", "resources.gpus=0", "seeds=2"),
    *("tune.space={train.learning_rate: [1.0e-3, 2.0e-3]}", "tune.trials=2"),
)
ATTENTIONS = 7


class Machine:
    """A machine that shares nothing with others. `train` is one session, which packs its results."""

    def __init__(self, folder: Path, study: Study) -> None:
        self.folder, self.study = folder, study
        self.tuning, self.store = (StudyFolder(folder / name) for name in (f"{study.study}-tune", study.study))
        self.corpus = prepare(study.data, folder, folder / "shards")

    def tune(self, limit: int | None = None) -> Plan | None:
        """Run up to `limit` trials. Returns the plan at each arm's best once all are done."""
        problem = pose_tuning(self.study, describe(self.study.data, self.folder))
        trials = Trials(problem, self.tuning)
        begun = [run for run in trials.plan.runs if not self.tuning.run(run.run_id).curve.exists()]
        ended = 0
        while ended != limit and (run := begun.pop() if begun else next(iter(trials.draw()), None)):
            self.train(trials.plan, [run], self.tuning)
            trials.tell(run, "finished")
            ended += 1
        return None if trials.n_open else plan_tuned(problem, self.study, trials)

    def train(self, plan: Plan, runs: Sequence[Run], store: StudyFolder) -> None:
        store.write_study(record_study(plan, "test", "ablate run"))
        train_here(plan, runs, store, self.corpus)


def publish(name: str, settings: Sequence[str], corpus_file: Path, folder: Path) -> tuple[Report, Mapping[str, Any]]:
    """Two sessions, the first of which ends during the trials. Returns the report and its summary."""
    study = load_study(
        ROOT / "experiments" / f"{name}.yaml", (*TINY, *settings, f"data={{source: text, path: {corpus_file}}}")
    )
    first, second = Machine(folder / "first", study), Machine(folder / "second", study)
    assert first.tune(limit=3) is None
    assert pack(first.tuning, folder / "tune.tar.gz", weights=False) == 3
    assert merge(second.tuning, [folder / "tune.tar.gz"]) == (3, 0)
    plan = second.tune()
    assert plan is not None
    second.train(plan, plan.runs[: len(plan.runs) // 2], second.store)
    pack(second.store, folder / "study.tar.gz", weights=False)
    merge(first.store, [folder / "study.tar.gz"])
    first.train(plan, plan.runs[len(plan.runs) // 2 :], first.store)
    assert len(list(second.tuning.path.glob("*/status.json"))) == 2 * len(plan.arms)
    report = make_report(read_results(first.store), ReportOptions())
    summary: Mapping[str, Any] = json.loads(json.dumps(summarize(report), allow_nan=False))
    jsonschema.validate(summary, json.loads(SCHEMA.read_text()))
    assert summary["is_complete"]
    for line in summary["fairness"]:
        assert line["tuning_trials"] == 2
        assert "train.learning_rate of 0.001, 0.002" in line["tuning"]
    return report, summary


@pytest.mark.parametrize(
    ("name", "families", "settings", "along", "levels"),
    [
        ("ngpt-vs-gpt", ["ngpt", "ngpt searched"], ["matrix.train.steps=[4, 8]"], "train.steps", [4, 8]),
        (
            "context-length",
            ["ngpt"],
            [
                "matrix.context_length=[{value: 8, train.batch_size: 4, label: 8}, "
                "{value: 16, train.batch_size: 2, label: 16}, {value: 32, train.batch_size: 1, label: 32}]",
                "tune.budget.steps=2",
            ],
            "context_length",
            [8, 16, 32],
        ),
    ],
)
def test_growth_along_horizon_and_context(
    name: str,
    families: Sequence[str],
    settings: Sequence[str],
    along: str,
    levels: Sequence[int],
    corpus_file: Path,
    tmp_path: Path,
) -> None:
    report, summary = publish(name, settings, corpus_file, tmp_path)
    trends = [trend for trend in summary["trends"] if trend["axis"] == "tokens"]
    assert [trend["family"] for trend in trends] == [{"normalization": family} for family in families]
    assert all((trend["along"], trend["levels"]) == (along, levels) for trend in trends)
    assert len(summary["answer"]) == 3
    assert "speedup" in summary["answer"][1]
    assert list(load(tmp_path / "first" / name).trends()["axis"]) == [trend["axis"] for trend in summary["trends"]]
    assert "Growth of the speedup" in write_html(compose(report))
    n_tokens = {arm["n_tokens"] for arm in summary["arms"]}
    assert n_tokens == ({4 * 32, 8 * 32} if along == "train.steps" else {4 * 32})


@pytest.mark.slow
def test_attentions_and_ngpt_are_summed(corpus_file: Path, tmp_path: Path) -> None:
    _, summary = publish("attention-x-normalization", ["tune.budget.steps=2"], corpus_file, tmp_path)
    effects = [effect for effect in summary["effects"] if effect["outcome"] == "final_loss"]
    assert sum(len(effect["levels"]) == 1 for effect in effects) == ATTENTIONS
    assert sum(len(effect["levels"]) == 2 for effect in effects) == ATTENTIONS - 1
    assert summary["answer"][2].startswith(f"Among {ATTENTIONS - 1} pairs of levels")
    assert len({arm["n_params"] for arm in summary["arms"]}) > 1
    assert all(abs(line["params_ratio"] - 1) <= 0.02 for line in summary["fairness"])
