import json

import numpy as np
import pytest

from ablate.analysis import read_results
from ablate.report.thinned_curves import (
    ALL_POINTS,
    MAX_LAYERS,
    MAX_POINTS,
    MIN_POINTS,
    find_loss_range,
    thin_curves,
    thin_diagnostics,
    thin_points,
)
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import Status
from benchmarks.synthetic import SyntheticArm, true_loss, write_study


@pytest.fixture
def draw(tmp_path):
    def write(n_arms=2, **changes):
        store = StudyFolder(tmp_path / "s")
        arms = [SyntheticArm("baseline", {"kind": 0})]
        arms += [SyntheticArm(f"kind={i}", {"kind": i}, speedup=1 + i) for i in range(1, n_arms)]
        return store, write_study(store, arms, **changes)

    return write


def test_a_drawn_curve_has_every_seed_and_their_mean(draw):
    store, _ = draw(noise=0.05)
    results = read_results(store)
    line = thin_curves(results, "val_loss", ("steps", "tokens"))[0]
    losses = np.stack([run.evaluation_loss for run in results.runs_of("baseline")])
    assert line.seeds == (0, 1, 2)
    assert line.mean == pytest.approx(losses.mean(0))
    assert (line.values == losses).all()
    assert line.costs["steps"].tolist() == list(range(20, 401, 20))
    assert (line.costs["tokens"] == 4096 * line.costs["steps"]).all()


def test_a_run_that_ended_early_is_a_line_of_its_own(draw):
    store, study = draw(seeds=(0, 1))
    run = next(run for run in study.runs if run.arm == "kind=1")
    folder = store.run(run.run_id)
    folder.curve.write_text("".join(folder.curve.read_text().splitlines(keepends=True)[:8]))
    folder.write_status(Status("diverged", 80, 400))
    lines = thin_curves(read_results(store), "val_loss", ("steps",))
    assert [(line.arm, line.state, len(line.seeds), line.mean.size) for line in lines] == [
        ("baseline", "", 2, 20),
        ("kind=1", "", 1, 20),
        ("kind=1", "seed 0: diverged", 1, 4),
    ]


def test_a_diverged_run_flattened_all_other_curves(draw):
    store, study = draw(n_arms=3, seeds=(0,))
    calm = thin_curves(read_results(store), "val_loss", ("steps",))
    assert find_loss_range(calm) is None
    folder = store.run(next(run.run_id for run in study.runs if run.arm == "kind=1"))
    records = [json.loads(line) for line in folder.curve.read_text().splitlines()]
    folder.curve.write_text("".join(json.dumps({**record, "val_loss": 6e4}) + "\n" for record in records))
    low, high = find_loss_range(thin_curves(read_results(store), "val_loss", ("steps",)))
    others = [line.mean for line in calm if line.arm != "kind=1"]
    assert 0 < low < min(mean.min() for mean in others)
    assert max(mean.max() for mean in others) < high < 2.1 * max(mean.max() for mean in others)


def test_seeds_evaluated_at_different_steps_share_a_grid(draw):
    store, study = draw(seeds=(0, 1), eval_every=20)
    folder = store.run(next(run for run in study.runs if run.arm == "baseline").run_id)
    lines = folder.curve.read_text().splitlines()
    sparse = [line for i, line in enumerate(lines) if i % 4 == 3]
    folder.curve.write_text("\n".join(sparse) + "\n")
    (line, _) = thin_curves(read_results(store), "val_loss", ("steps",))
    assert line.costs["steps"].tolist() == list(range(40, 401, 40))
    assert line.mean == pytest.approx(true_loss(line.costs["steps"], 1.0), abs=1e-6)  # written with six digits


def test_many_points_are_thinned_on_either_scale_and_the_ends_stay():
    points = thin_points(np.arange(1.0, 100_001.0), MAX_POINTS)
    assert points.size <= MAX_POINTS
    assert (points[0], points[-1]) == (1, 100_000)
    assert (points < 100).sum() > 20 and (points > 50_000).sum() > 40
    assert thin_points(np.arange(5.0), MAX_POINTS).tolist() == [0, 1, 2, 3, 4]


def test_all_curves_together_keep_the_page_small(draw):
    n_arms = 150
    store, _ = draw(n_arms, seeds=(0,), n_steps=2000, eval_every=10)
    lines = thin_curves(read_results(store), "val_loss", ("steps",))
    assert MIN_POINTS <= max(line.mean.size for line in lines) <= ALL_POINTS // n_arms


def test_diagnostics_are_grouped_by_name_with_their_layers(draw):
    store, _ = draw(seeds=(0, 1))
    groups = thin_diagnostics(read_results(store), ("tokens",))
    assert list(groups) == ["grad_norm", "alpha_attn"]
    (first, second) = groups["alpha_attn"]
    assert (first.arm, second.arm) == ("baseline", "kind=1")
    assert list(first.layers) == ["0", "1", "2", "3"] and len(first.layers) <= MAX_LAYERS
    assert first.layers["3"][-1] == pytest.approx(0.25)
    assert list(groups["grad_norm"][0].layers) == [""]
