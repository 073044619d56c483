"""The verb `power`, and what a plan says about its seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ablate.analysis import read_results
from ablate.analysis.differences import find_differences
from ablate.analysis.power import detectable_difference
from ablate.analysis.spending import detectable_at_look
from ablate.report.write import read_study
from ablate.tracking.folders import StudyFolder
from benchmarks.synthetic import SyntheticArm, write_study

Ablate = Callable[..., tuple[int, str, str]]
BASE = "attention=standard"
GRID = """study: made-up
model: {d_model: 16, n_layers: 1, n_heads: 2, context_length: 16}
train: {steps: 10, batch_size: 2}
matrix: {attention: [standard, differential, gated]}
seeds: SEEDS
"""


@pytest.fixture
def store(tmp_path: Path) -> StudyFolder:
    """A finished study of three arms whose final losses scatter by 0.02 nats between seeds."""
    names = ("standard", "differential", "gated")
    arms = [SyntheticArm(f"attention={name}", {"attention": name}, BASE) for name in names]
    store = StudyFolder(tmp_path / "runs" / "made-up")
    write_study(store, arms, seeds=range(6), noise=0.02)
    return store


@pytest.fixture
def ablate(call_ablate: Ablate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ablate:
    monkeypatch.chdir(tmp_path)

    return call_ablate


def test_the_seeds_that_an_effect_takes_are_those_that_find_it(ablate: Ablate, store: StudyFolder) -> None:
    code, out, _ = ablate("power", "made-up", "--effect", "0.02", "--json")
    arms = json.loads(out)
    assert (code, [arm["arm"] for arm in arms]) == (0, ["attention=differential", "attention=gated"])
    for arm, row in zip(arms, find_differences(read_results(store)), strict=True):
        assert (arm["sd"], arm["n_seeds"]) == (row.sd, 6)
        assert arm["detectable"] == pytest.approx(row.detectable)
        needed = arm["seeds_needed"]
        assert detectable_difference(arm["sd"], 2, needed) <= 0.02 < detectable_difference(arm["sd"], 2, needed - 1)
    code, out, _ = ablate("power", "made-up")
    assert code == 0 and "seeds for 0.01" in out and "found in 80 %" in out
    assert all(str(arm["n_seeds"]) in out for arm in arms)


def test_power_counted_no_looks_of_a_study_that_has_some(ablate: Ablate) -> None:
    published = Path(__file__).parents[1] / "reports" / "until-decided"
    code, out, err = ablate("power", published, "--effect", "0.03", "--json")
    assert code == 0, err
    arms = json.loads(out)
    for arm, row in zip(arms, find_differences(read_study(StudyFolder(published))), strict=True):
        assert (arm["n_seeds"], arm["detectable"]) == (row.n_seeds, pytest.approx(row.detectable))
    needed = arms[2]["seeds_needed"]
    too_large, small_enough = (detectable_at_look(arms[2]["sd"], 4, 3, n, n) for n in (needed - 1, needed))
    assert small_enough <= 0.03 < too_large
    out = ablate("power", published, "--effect", "0.003")[1]
    assert "at_most for 0.003" in out and "over 50" in out and "each look is stricter" in out


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--effect", "0"), "--effect 0: must be a number above 0"),
        (("--effect", "nan"), "--effect: must be a number"),
        (("--power", "1"), "--power 1: must be above 0 and below 1"),
    ],
)
def test_wrong_numbers_are_one_message(ablate: Ablate, options: tuple[str, str], words: str) -> None:
    code, _, err = ablate("power", "made-up", *options)
    assert code == 2 and words in err


def test_a_study_of_one_seed_has_no_scatter(ablate: Ablate, tmp_path: Path) -> None:
    arms = [SyntheticArm(f"attention={name}", {"attention": name}, BASE) for name in ("standard", "gated")]
    write_study(StudyFolder(tmp_path / "runs" / "one"), arms, seeds=[0])
    code, _, err = ablate("power", "one")
    assert code == 2 and "no arm has two finished pairs of runs" in err


def test_a_plan_says_what_its_seeds_can_see(ablate: Ablate, tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.replace("SEEDS", "3"))
    size = detectable_difference(0.01 * np.sqrt(2), 2, 3)
    code, out, err = ablate("plan", str(grid), "--noise", "0.01")
    assert code == 0, err
    said = f"with 3 seeds and 2 arms per baseline, a difference of {size:.2g} nats is detected in 80 % of studies"
    assert f"{said} (scatter from --noise 0.01)" in out
    assert f"{size / 0.01:.1f} standard deviations over seeds is detected in 80 %" in ablate("plan", str(grid))[1]
    grid.write_text(GRID.replace("SEEDS", "1"))
    assert "with one seed, no arm can be called better or worse" in ablate("plan", str(grid))[1]
    assert ablate("plan", str(grid), "--noise", "0")[0] == 2


def test_a_plan_takes_the_scatter_of_the_runs_that_are_there(
    ablate: Ablate, store: StudyFolder, tmp_path: Path
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.replace("SEEDS", "6"))
    scatter = np.median([row.sd for row in find_differences(read_results(store))])
    size = detectable_difference(float(scatter), 2, 6)
    assert (
        f"a difference of {size:.2g} nats is detected in 80 % of studies (scatter from finished runs)"
        in ablate("plan", str(grid))[1]
    )
