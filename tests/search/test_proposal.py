"""The `tune:` block that a plan proposes for arms that share an untuned learning rate."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.data import CorpusInfo
from ablate.plan import Plan, build_plan
from ablate.search.proposal import propose_tuning
from ablate.study import load_study

GRID = """
study: s
model: {d_model: 16, n_layers: 1, n_heads: 2, context_length: 16}
train: {steps: 40, batch_size: 4, learning_rate: 2.0e-3}
seeds: 2
"""
ARMS = "matrix: {attention: [standard, differential]}\nbaseline: {attention: standard}\n"
RATES = "matrix: {train.learning_rate: [1.0e-3, 2.0e-3]}\nbaseline: {train.learning_rate: 1.0e-3}\n"
RULE = "rules:\n  - {when: attention == 'differential', set: {train.learning_rate: 4.0e-3}}\n"


def plan(folder: Path, text: str) -> Plan:
    path = folder / "grid.yaml"
    path.write_text(text)
    return build_plan(load_study(path), CorpusInfo("hash", 4000, 600, 256))


def test_the_proposed_block_is_one_that_the_grid_takes(tmp_path: Path) -> None:
    first, *block = propose_tuning(plan(tmp_path, GRID + ARMS))
    assert first.startswith("no arm was tuned: the verdict holds for this learning rate only (0.002)")
    tuned = plan(tmp_path, GRID + ARMS + "\n".join(block) + "\n")
    assert tuned.grid.tune is not None
    assert tuned.grid.tune.space["train.learning_rate"].choices == (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
    assert (tuned.grid.tune.trials, tuned.grid.tune.is_grid, tuned.grid.tune.budget) == (5, True, {"steps": 20})
    assert list(propose_tuning(tuned)) == []


@pytest.mark.parametrize("text", [RATES, ARMS + RULE], ids=["an axis of them", "each its own"])
def test_nothing_is_said_where_learning_rates_differ(tmp_path: Path, text: str) -> None:
    assert list(propose_tuning(plan(tmp_path, GRID + text))) == []


def test_rules_that_set_learning_rates_give_way_to_the_block(tmp_path: Path) -> None:
    more = ARMS.replace("differential]", "differential, gated]")
    first, *block = propose_tuning(plan(tmp_path, GRID + more + RULE))
    assert first.startswith("some arms share a learning rate that was not tuned")
    assert first.endswith("add, in place of the rules that set train.learning_rate:")
    tuned = plan(tmp_path, GRID + more + "\n".join(block) + "\n")
    assert tuned.grid.tune is not None
    assert {2e-3, 4e-3, 1.6e-2} <= set(tuned.grid.tune.space["train.learning_rate"].choices)


def test_a_grid_that_cannot_take_a_block_is_told_why(tmp_path: Path) -> None:
    more = ARMS.replace("differential]", "differential, gated]")
    reading = "exclude: attention == 'gated' and train.learning_rate > 1\n"
    (line,) = propose_tuning(plan(tmp_path, GRID + more + reading))
    assert "cannot take a tune: block as it is: " in line and "learning_rate" in line.partition("as it is")[2]
