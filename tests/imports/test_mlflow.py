"""Studies that only MLflow has, logged with a plain MlflowClient as any training code would."""

from __future__ import annotations

import math
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.analysis import speed_ups
from ablate.analysis.results import Results
from ablate.analysis.selection import rebase
from ablate.errors import AblateError, RecordError, ResourceError
from ablate.imports.metric_curve import settle
from ablate.imports.mlflow import MlflowReader, read_mlflow_study, read_points
from ablate.imports.names import Names
from foreign_runs import FAST, SLOW, STEPS, Experiments

# MLflow and SQLAlchemy use deprecated calls of their own and of each other.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

NAN, INFINITY = math.nan, math.inf


def read(experiments: Experiments, experiment: str, **chosen: str) -> Results:
    return read_mlflow_study(MlflowReader(experiments.uri), experiment, Names(chosen))


def compare(experiments: Experiments, experiment: str, axis: str = "steps", **chosen: str) -> Any:
    """The row of `new` against `gpt` at the final loss."""
    results = rebase(read(experiments, experiment, **chosen), {"arm": "gpt"})
    (row,) = (r for r in speed_ups(results, ("final",)) if (r.arm, r.axis) == ("new", axis))
    return row


def test_arms_are_compared_in_pairs_by_the_tags_arm_and_seed(experiments: Experiments) -> None:
    experiments.pair("plain")
    row = compare(experiments, "plain")
    # The fast arm passes 5 - ln(161) / 2 between steps 40 and 80, linearly in the logarithm of the steps.
    fraction = (math.log(161) - math.log(81)) / (math.log(161) - math.log(81))
    assert row.ratio == pytest.approx(160 / math.exp(math.log(40) + fraction * math.log(2)))
    assert (row.n_pairs, row.n_reached, row.method) == (3, 3, "paired t on the log ratio")


@pytest.mark.parametrize("metric", ["val_loss", "eval/loss", "my loss"])
def test_the_loss_has_one_of_three_names_or_the_given_one(experiments: Experiments, metric: str) -> None:
    name = f"logged as {metric}"
    experiments.pair(name, 1, metric=metric, more={"val/accuracy": {0: 0.1}})
    chosen = {"val_loss": metric} if metric == "my loss" else {}
    assert compare(experiments, name, **chosen).ratio == pytest.approx(2.0)
    if chosen:
        with pytest.raises(RecordError, match=r"no run has a metric val/loss or .* \(found: my loss, val/accuracy\)"):
            read(experiments, name)
        with pytest.raises(RecordError, match="no run has a metric my los; did you mean 'my loss'"):
            read(experiments, name, val_loss="my los")


def test_names_may_be_mapped_and_several_are_axes(experiments: Experiments) -> None:
    for seed in (4, 5):
        for attention in ("softmax", "linear"):
            for width in (64, 128):
                params = {"attention": attention, "width": width, "random_state": seed}
                curve = FAST if (attention, width) == ("linear", 128) else SLOW
                experiments.log("two axes", curve, params=params)
    results = read(experiments, "two axes", arm="attention,width", seed="random_state")
    assert results.record.axes == {"attention": ("softmax", "linear"), "width": (64, 128)}
    assert {run.seed for run in results.runs} == {4, 5}
    rows = speed_ups(rebase(results, {"attention": "softmax"}), ("final",))
    ratios = {row.arm: row.ratio for row in rows if row.axis == "steps"}
    assert ratios == pytest.approx({"attention=linear,width=64": 1.0, "attention=linear,width=128": 2.0})


def test_not_a_number_and_infinity_are_divergence_and_never_a_loss_of_0(experiments: Experiments) -> None:
    experiments.log("diverging", SLOW, {"arm": "gpt", "seed": 0})
    for seed, (last, status) in enumerate(((NAN, "FINISHED"), (INFINITY, "FAILED"), (-INFINITY, "KILLED"))):
        experiments.log(
            "diverging", {**FAST, 40: NAN, 80: last, 160: last}, {"arm": "new", "seed": seed}, status=status
        )
    with sqlite3.connect(experiments.uri.removeprefix("sqlite:///")) as database:
        stored = database.execute("SELECT value, is_nan FROM metrics WHERE step = 160 AND value NOT BETWEEN 1 AND 9")
        assert (0.0, 1) in stored.fetchall()
    results = read(experiments, "diverging")
    assert [run.state for run in results.runs_of("new")] == ["diverged"] * 3
    for run in results.runs_of("new"):
        np.testing.assert_array_equal(run.evaluation_loss, [FAST[step] for step in (0, 10, 20)])
    row = compare(experiments, "diverging")
    assert (row.bound, row.ratio, row.high) == ("at_most", None, pytest.approx(1.0))


def test_of_a_step_that_was_logged_twice_the_later_point_counts(experiments: Experiments) -> None:
    from mlflow.entities import Metric

    run_id = experiments.log("resumed", {**SLOW, 80: 9.0}, {"arm": "gpt"}, status="RUNNING")
    late = experiments.client.get_run(run_id).info.start_time + 10**6
    experiments.client.log_batch(run_id, metrics=[Metric("val/loss", SLOW[80], late, 80)])
    (run,) = read(experiments, "resumed").runs
    assert dict(zip(run.columns["step"], run.evaluation_loss, strict=True)) == SLOW


def test_failed_and_running_runs_are_marked_and_left_out(experiments: Experiments) -> None:
    experiments.pair("ragged", 2)
    experiments.log("ragged", {0: 5.0, 10: 1.0}, {"arm": "new", "seed": 2}, status="RUNNING")
    experiments.log("ragged", {0: 5.0, 10: 1.0}, {"arm": "gpt", "seed": 2}, status="FAILED")
    row = compare(experiments, "ragged")
    assert (row.n_pairs, row.ratio) == (2, pytest.approx(2.0))
    assert row.note == "1 run of this arm left out (unfinished); 1 run of the baseline left out (failed)"


def test_a_run_that_was_made_again_replaces_the_one_that_failed(experiments: Experiments) -> None:
    experiments.log("again", {0: 5.0}, {"arm": "new", "seed": 1}, status="FAILED")
    experiments.pair("again", 2)
    experiments.log("again", None, {"kind": "sweep"})
    results = read(experiments, "again")
    assert [run.state for run in results.runs] == ["finished"] * 4
    assert results.record.data["left out"] == "1 run without an arm"
    assert results.record.data["replaced"] == "1 run by a later one of its arm and seed"


def test_without_seeds_nothing_is_paired(experiments: Experiments) -> None:
    for shift in (0.0, 0.01, 0.02):
        for arm, curve in (("gpt", SLOW), ("new", FAST)):
            experiments.log("no seeds", {step: loss + shift for step, loss in curve.items()}, {"arm": arm})
    row = compare(experiments, "no seeds")
    assert row.method.startswith("Welch t") and row.low < 2 < row.high
    assert len({run.seed for run in read(experiments, "no seeds").runs}) == 6


def test_arms_of_one_run_each_have_a_number_and_no_interval(experiments: Experiments) -> None:
    experiments.pair("single", 1)
    row = compare(experiments, "single")
    assert (row.ratio, row.low, row.note) == (pytest.approx(2.0), None, "no interval: one seed")


def test_horizons_are_each_arms_own(experiments: Experiments) -> None:
    short = {step: loss for step, loss in FAST.items() if step <= 40}
    for seed in (0, 1):
        experiments.log("horizons", SLOW, {"arm": "gpt", "seed": seed})
        experiments.log("horizons", short, {"arm": "new", "seed": seed}, params={"max_steps": 41})
        experiments.log("horizons", short, {"arm": "cut", "seed": seed}, params={"max_steps": 160})
    results = read(experiments, "horizons")
    assert {arm.arm: arm.n_steps for arm in results.record.arms} == {"gpt": 160, "new": 40, "cut": 160}
    assert {run.arm: run.state for run in results.runs} == {
        "gpt": "finished",
        "new": "finished",
        "cut": "stopped early",
    }
    assert compare(experiments, "horizons").bound == "at_most"


def test_tokens_and_flops_come_from_metrics_or_what_a_step_has(experiments: Experiments) -> None:
    tokens = {step: 64.0 * step for step in STEPS if step % 20 == 0}
    facts = {"flops_per_token": 600, "n_params": 100, "precision": "bfloat16"}
    experiments.pair("tokens", 1, more={"tokens": tokens}, params=facts)
    experiments.pair("per step", 1, params={**facts, "tokens_per_step": 64})
    for name in ("tokens", "per step"):
        results = read(experiments, name)
        for run in results.runs:
            np.testing.assert_allclose(run.cost("tokens"), 64 * run.cost("steps"))
            np.testing.assert_allclose(run.cost("flops"), 600 * run.cost("tokens"))
        assert results.record.arms[0].n_params == 100


def test_clock_times_are_compared_only_where_the_device_is_known(experiments: Experiments) -> None:
    experiments.pair("clock", 1)
    assert "the devices on which the runs were trained are not known" in compare(experiments, "clock", "seconds").note
    experiments.pair("clock known", 1, params={"gpu": "H100"})
    row = compare(experiments, "clock known", "seconds", device="gpu")
    assert row.ratio == pytest.approx(2.0)
    (run, *_) = read(experiments, "clock known").runs
    np.testing.assert_allclose(run.cost("seconds"), 0.1 * run.cost("steps"))


def test_points_without_steps_are_one_message(experiments: Experiments) -> None:
    experiments.log("no steps", {0: 3.0}, {"arm": "gpt"})
    with pytest.raises(RecordError, match="every point was logged at step 0"):
        read(experiments, "no steps")


@pytest.mark.parametrize(
    ("experiment", "chosen", "message"),
    [
        ("plian", {}, "there is no such experiment in sqlite:.*did you mean 'plain'"),
        ("neighbour", {}, "the experiment has no runs"),
        ("untagged", {}, r"no run has a tag or param arm.*found: model, seed"),
        ("untagged", {"arm": "modl"}, "tag or param modl; did you mean 'model'"),
        ("untagged", {"arm": "model"}, "its seed is 'twelve', which is not a whole number"),
        ("untagged", {"arm": "model", "tokens": "tokns"}, r"no run has a metric tokns.*see --map"),
    ],
)
def test_what_is_not_there_is_one_message_that_lists_what_is(
    experiments: Experiments, experiment: str, chosen: dict[str, str], message: str
) -> None:
    if experiments.client.get_experiment_by_name("untagged") is None:
        experiments.pair("plain", 1)
        experiments.log("untagged", SLOW, {"model": "gpt"}, {"seed": "twelve"})
    with pytest.raises(RecordError, match=message):
        read(experiments, experiment, **chosen)


def test_a_mapping_of_something_unheard_of_is_refused() -> None:
    with pytest.raises(AblateError, match="map: 'sed' is not a known fact or metric; did you mean 'seed'"):
        Names({"sed": "x"})
    with pytest.raises(AblateError, match="arm=, names no tag"):
        Names({"arm": ","})


def test_reading_makes_no_database_and_changes_no_foreign_one(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    content = foreign.read_bytes()
    for path, message in ((tmp_path / "none.db", "no such file"), (foreign, "not MLflow's")):
        with pytest.raises(ResourceError, match=message):
            MlflowReader(f"sqlite:///{path}").read_runs("x")
    assert not (tmp_path / "none.db").exists()
    assert foreign.read_bytes() == content


def test_a_server_that_is_away_is_one_message_without_the_password() -> None:
    with pytest.raises(ResourceError, match="cannot be read") as error:
        MlflowReader("http://ann:hunter2@127.0.0.1:9").read_runs("x")
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_points_in_any_order_become_a_history() -> None:
    history = settle(
        read_points(
            [(2, 30, 7.0, 0), (1, 10, 0.0, 1), (2, 20, 8.0, 0), (-1, 5, 1.0, 0), (3, 40, -1.7976931348623157e308, 0)]
        )
    )
    np.testing.assert_array_equal(history.steps, [1, 2, 3])
    np.testing.assert_array_equal(history.values, [NAN, 7.0, -INFINITY])
    np.testing.assert_array_equal(history.times_s, [0.01, 0.03, 0.04])
    assert settle(read_points([])).size == 0


def test_a_folder_of_files_gives_the_same_as_a_database(
    experiments: Experiments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as allowed:
        allowed.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        files = Experiments(tmp_path / "mlruns")
    for log in (files, experiments):
        log.pair("in files", 2, params={"device": "A100"})
        log.log("in files", {**FAST, 80: NAN, 160: INFINITY}, {"arm": "new", "seed": 2})
    straight = speed_ups(rebase(read(experiments, "in files"), {"arm": "gpt"}))
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    for uri in ("mlruns", "./mlruns", "file:./mlruns", files.uri):
        found = read_mlflow_study(MlflowReader(uri), "in files", Names({}))
        assert speed_ups(rebase(found, {"arm": "gpt"})) == straight
    assert sorted(tmp_path.rglob("*")) == before
    for uri, message in (("file:./none", "there is no such folder"), (".", "this folder is not MLflow's")):
        with pytest.raises(ResourceError, match=message):
            MlflowReader(uri).read_runs("in files")
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ


def test_a_server_gives_the_same_as_its_database(experiments: Experiments, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers a server's requests from the client, without a network."""
    experiments.pair("served", 2)
    straight = read(experiments, "served")
    reader = MlflowReader(experiments.uri)
    monkeypatch.setattr(reader, "_is_database", False)
    asked = read_mlflow_study(reader, "served", Names({}))
    assert speed_ups(asked) == speed_ups(straight)
    for one, other in zip(asked.runs, straight.runs, strict=True):
        np.testing.assert_array_equal(one.columns["wall_s"], other.columns["wall_s"])


def test_a_metric_of_which_more_is_better_is_compared_in_its_direction(experiments: Experiments) -> None:
    for seed in (0, 1):
        for arm, curve in (("gpt", SLOW), ("new", FAST)):
            rising = {step: seed / 100 - loss for step, loss in curve.items()}
            experiments.log("accuracies", rising, {"arm": arm, "seed": seed}, metric="accuracy")
    names = Names({"val_loss": "accuracy"}, "higher")
    results = read_mlflow_study(MlflowReader(experiments.uri), "accuracies", names)
    (row,) = (r for r in speed_ups(rebase(results, {"arm": "gpt"}), ("final",)) if (r.arm, r.axis) == ("new", "steps"))
    assert (results.metric.name, row.ratio) == ("accuracy", pytest.approx(2.0))
