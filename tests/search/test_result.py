"""The numbers, sentences and pages of a search, from runs that ended without training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pretended import ALPHA, RATE, Pose, end_run, quadratic, train
from scipy import stats

from ablate.data import CorpusInfo
from ablate.execution.jobs import record_study
from ablate.plan import build_plan
from ablate.search.best_yaml import write_best
from ablate.search.conclusions import count_open, state_conclusions
from ablate.search.follow_up import plan_confirmation
from ablate.search.importance import rate_settings
from ablate.search.page import read_summary, write_pages
from ablate.search.result import summarize
from ablate.search.trials import Trials
from ablate.study import load_overlay, load_study
from ablate.tracking.folders import StudyFolder

ARMS = [{"normalization": "ngpt"}, {"normalization": "prenorm"}]


@pytest.fixture
def finished(pose_search: Pose, tmp_path: Path):
    """A search of two arms with its confirmation."""
    problem, store = pose_search(arm=ARMS, trials=15, confirm={"seeds": 3}), StudyFolder(tmp_path / "runs" / "tiny")
    trials = Trials(problem, store)
    train(trials)
    write_best(problem, trials, store)
    plan = plan_confirmation(problem, trials)
    place = StudyFolder(store.path.parent / "tiny-confirm")
    place.write_study(record_study(plan, "0", ""))
    for index, run in enumerate(plan.runs):
        end_run(place, run, quadratic(run) + 0.01 * index**0.5)
    return problem, trials, store, plan


def test_the_confirmation_is_paired_with_fresh_seeds(finished) -> None:
    problem, trials, store, plan = finished
    assert plan.study.seeds == (1, 2, 3)
    assert [arm.name for arm in plan.arms] == [
        "normalization=ngpt,settings=default",
        "normalization=ngpt,settings=best",
        "normalization=prenorm,settings=best",
        "normalization=prenorm,settings=default",
    ]
    found = summarize(problem, trials, store, "0")["confirmation"]
    pairs = [(row["arm"], row["against"]) for row in found["differences"]]
    assert pairs == [
        ("ngpt / best", "ngpt / default"),
        ("prenorm / best", "prenorm / default"),
        ("ngpt / best", "prenorm / best"),
    ]
    losses = {row["arm"]: np.array(list(row["by_seed"].values())) for row in found["losses"]}
    for row in found["differences"]:
        expected = stats.ttest_rel(losses[row["arm"]], losses[row["against"]])
        interval = expected.confidence_interval(0.95)
        assert row["estimate"] == pytest.approx((losses[row["arm"]] - losses[row["against"]]).mean(), rel=1e-9)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert row["p_value"] == pytest.approx(expected.pvalue, rel=1e-9)


def test_only_the_defaults_of_the_first_arm_where_the_file_says_so(pose_search: Pose, tmp_path: Path) -> None:
    problem = pose_search(arm=ARMS, trials=3, confirm={"seeds": [9], "steps": 24, "defaults": "first"})
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / "tiny"))
    train(trials, lambda run: quadratic(run) + (5 if run.arm.name == run.arm.baseline else 0))
    plan = plan_confirmation(problem, trials)
    assert [arm.name.rpartition("=")[2] for arm in plan.arms] == ["default", "best", "best"]
    assert {(run.seed, run.arm.train.steps) for run in plan.runs} == {(9, 24)}


def test_where_the_defaults_are_best_there_is_nothing_to_confirm(pose_search: Pose, tmp_path: Path) -> None:
    problem = pose_search(trials=3)
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / "tiny"))
    train(trials, lambda run: 0.0 if run.arm.name == run.arm.baseline else 1.0)
    assert plan_confirmation(problem, trials) is None
    summary = summarize(problem, trials, trials.store, "0")
    assert "none of 3 trials was better than the defaults" in " ".join(state_conclusions(summary))


def test_the_best_is_laid_over_the_arms_it_was_found_for(
    finished, write_grid, tmp_path: Path, corpus_info: CorpusInfo
) -> None:
    _, _, store, plan = finished
    path = store.path / "best.yaml"
    assert "optimistically biased" in path.read_text()
    assert [entry["when"] for entry in yaml.safe_load(path.read_text())["overlay"]] == [
        "normalization == 'ngpt'",
        "normalization == 'prenorm'",
    ]
    best = {arm.axes["normalization"]: arm for arm in plan.arms if arm.axes["settings"] == "best"}
    laid = build_plan(load_study(write_grid()), corpus_info, load_overlay(path))
    for arm in laid.arms:
        assert arm.train.learning_rate == best[arm.axes["normalization"]].train.learning_rate
        assert any("is for normalization ==" in notice for notice in arm.notices)
    loose = tmp_path / "loose.yaml"
    loose.write_text(f"{ALPHA}: 0.25")
    for arm in build_plan(load_study(write_grid()), corpus_info, load_overlay(loose)).arms:
        is_ngpt = arm.axes["normalization"] == "ngpt"
        assert is_ngpt == (getattr(getattr(arm.model.normalization, "alpha_attn", None), "init", None) == 0.25)
        assert is_ngpt != any("prenorm has no such knob" in notice for notice in arm.notices)


def test_a_level_wins_over_an_overlay(write_grid, tmp_path: Path, corpus_info: CorpusInfo) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(f"{RATE}: 0.5")
    grid = load_study(write_grid(matrix={RATE: [1e-3, 2e-3]}, baseline=None))
    plan = build_plan(grid, corpus_info, load_overlay(path))
    assert [arm.train.learning_rate for arm in plan.arms] == [1e-3, 2e-3]
    assert any("a level of the arm sets it" in notice for notice in plan.notices)


def test_the_pages_say_it_all_and_are_made_again_from_the_summary(finished, tmp_path: Path) -> None:
    problem, trials, store, _ = finished
    summary = summarize(problem, trials, store, "0")
    paths = write_pages(summary, tmp_path / "pages")
    page, text = paths["search.html"].read_text(), paths["search.md"].read_text()
    for sentence in state_conclusions(summary):
        assert sentence.split(":")[0] in page
    assert "ngpt / best" in text and "prenorm / best" in text
    assert "12,720 parameters" in text
    assert "arXiv 2604.27077" in text
    assert "http://" not in page.split("<main>")[1].split("<script>")[0]
    again = write_pages(read_summary(tmp_path / "pages"), tmp_path / "again")
    for name, path in paths.items():
        assert again[name].read_bytes() == path.read_bytes()
    published = sum(path.stat().st_size for path in (tmp_path / "pages").rglob("*") if path.suffix != ".html")
    assert published < 1_000_000


def test_a_search_that_is_not_over_says_so(pose_search: Pose, tmp_path: Path) -> None:
    problem = pose_search(trials=6)
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / "tiny"))
    train(trials, limit=2)
    summary = summarize(problem, trials, trials.store, "0")
    assert count_open(summary) == 4
    assert "not confirmed yet" in " ".join(state_conclusions(summary))
    assert "4 trials have not ended" in write_pages(summary, tmp_path / "pages")["search.md"].read_text()


def test_defaults_that_nothing_beat_need_no_confirmation(pose_search: Pose, tmp_path: Path) -> None:
    problem = pose_search(trials=3)
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / "tiny"))
    train(trials, lambda run: 1.0 if run.arm.name == run.arm.baseline else 2.0)
    first, second, *_ = state_conclusions(summarize(problem, trials, trials.store, "0"))
    assert first == "There is nothing to confirm: no trial was better than the defaults."
    assert "none of 3 trials was better than the defaults" in second


def test_a_best_value_at_the_edge_is_flagged(pose_search: Pose, tmp_path: Path) -> None:
    problem = pose_search(trials=2, space={RATE: {"low": 1e-3, "high": 1.05e-3}})
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / "tiny"))
    train(trials, lambda run: abs(run.arm.train.learning_rate - 1e-3))
    assert summarize(problem, trials, trials.store, "0")["arms"][0]["at_edge"] == [RATE]


def test_importance_finds_what_matters_and_how_surely() -> None:
    draw = np.random.default_rng(1)
    settings = [{"a": float(draw.uniform()), "b": float(draw.uniform())} for _ in range(40)]
    losses = [setting["a"] ** 2 + 0.01 * draw.normal() for setting in settings]
    first, second = rate_settings(settings, losses)
    assert (first.path, second.path) == ("a", "b")
    assert first.low <= first.importance <= first.high
    assert first.importance > second.high
    assert rate_settings(settings, losses) == [first, second]
    assert rate_settings(settings[:5], losses[:5]) == []


def test_names_that_people_gave_cannot_run_on_the_page(pose_search: Pose, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    problem = pose_search(trials=1, question=evil)
    trials = Trials(problem, StudyFolder(tmp_path / "runs" / "tiny"))
    train(trials)
    page = write_pages(summarize(problem, trials, trials.store, "0"), tmp_path / "pages")["search.html"].read_text()
    assert evil not in page
    assert json.loads(page.split('id="data">')[1].split("</script>")[0])["charts"]
